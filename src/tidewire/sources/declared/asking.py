"""The requests of a declared source: address, parameters, headers and body, with what is asked for put in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec

from tidewire.collect import Request
from tidewire.errors import ConfigError
from tidewire.sources.declared.expression import NEED_SINCE, Expression, template
from tidewire.sources.declared.grammar import Declared, Paginate
from tidewire.sources.declared.source import known_names
from tidewire.sources.declared.steps import text_of
from tidewire.sources.declared.values import combinations

NOW = "now"
"""In values of ``for_each``: when the round begins, UTC microseconds."""

# Every status is looked at by the file's own rules.
STATUSES = frozenset(range(200, 600))

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


@dataclass(frozen=True)
class Templates:
    """The texts of a request, compiled."""

    url: Expression
    params: Mapping[str, Expression]
    headers: Mapping[str, Expression]
    form: Mapping[str, Expression]
    body: Expression | None

    @property
    def names(self) -> frozenset[str]:
        """What stands in them as ``${name}``."""
        found = [self.url, *self.params.values(), *self.headers.values(), *self.form.values()]
        return frozenset[str]().union(*(each.names for each in (*found, *filter(None, (self.body,)))))


def templates(declared: Declared, where: str) -> Templates:
    """Compile the texts of a file's request; `ConfigError` for a name that stands for nothing."""
    asking = declared.request
    known = known_names(declared)
    tz = "" if declared.since is None else declared.since.tz

    def one(text: Any, section: str) -> Expression:
        return template(text, f"{where}: request{section}", known, rows=False, tz=tz)

    def each(section: str, texts: Mapping[str, Any]) -> dict[str, Expression]:
        return {name: one(text, f".{section}.{name}") for name, text in texts.items()}

    body = asking.body
    if asking.json is not None:
        body = msgspec.json.encode(asking.json).decode()
    return Templates(
        url=one(asking.get or asking.post, ""),
        params=each("params", asking.params),
        headers=each("headers", asking.headers),
        form=each("form", asking.form),
        body=one(body, ".body") if body else None,
    )


def request(declared: Declared, texts: Templates, names: Mapping[str, Any], paging: Mapping[str, Any]) -> Request:
    """One request; ``paging`` are the parameters of the page, where the file has any."""
    asking = declared.request
    headers = _texts(texts.headers, names)
    filled = {name: text_of(value) for name, value in paging.items()}
    url = text_of(texts.url.once(names))
    params = _texts(texts.params, names)
    if asking.get:
        return Request(url, params | filled, headers=headers, ok_statuses=STATUSES, wanted=asking.response)
    if texts.form or (filled and texts.body is None):
        body = urlencode(_texts(texts.form, names) | filled).encode()
        return _post(url, params, {"Content-Type": FORM} | headers, body)
    content = text_of(texts.body.once(names)) if texts.body is not None else ""
    if asking.json is not None and filled:
        content = msgspec.json.encode({**msgspec.json.decode(content), **paging}).decode()
    kind = {"Content-Type": JSON} if asking.json is not None else {}
    return _post(url, params, kind | headers, content.encode())


def _post(url: str, params: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> Request:
    return Request(url, params, "POST", headers, body, ok_statuses=STATUSES)


def _texts(texts: Mapping[str, Expression], names: Mapping[str, Any]) -> dict[str, str]:
    found = {name: text.once(names) for name, text in texts.items()}
    return {name: text_of(value) for name, value in found.items() if value is not None}


def page_parameters(paginate: Paginate, at: int) -> dict[str, Any]:
    """The parameters of the ``at``-th page, counted from 0, of a list whose pages are counted."""
    size = next(iter(paginate.size.values()), 0)
    if paginate.page:
        return {paginate.page: paginate.start + at, **paginate.size}
    if paginate.offset:
        return {paginate.offset: paginate.start + at * size, **paginate.size}
    return {**paginate.size}


def dated(names: Mapping[str, Any], now_us: int, where: str = "") -> dict[str, Any]:
    """What is asked for, with ``${now | …}`` in it put in: this month, today."""
    return {
        name: template(value, f"{where}for_each.{name}", (NOW,), rows=False).once({NOW: now_us})
        if isinstance(value, str) and "${" in value
        else value
        for name, value in names.items()
    }


def check_requests(declared: Declared, where: str) -> Templates:
    """The templates of a file, each tried once with its first values."""
    texts = templates(declared, where)
    every = [dated(names, 0, f"{where}: ") for names in combinations(declared, {})]
    first = every[0] if every else {}
    try:
        request(declared, texts, first | {"page": 1, "since": 0, "until": 0}, {})
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{where}: request: {error}") from None
    if declared.since is not None and not declared.use and not texts.names & NEED_SINCE:
        raise ConfigError(f"{where}: since: nothing in request asks for ${{since}} or ${{until}}.")
    return texts
