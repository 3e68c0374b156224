"""Keys of a declared source: they come from the environment or the platform file, and go to the site alone."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, quote_plus

from tidewire.collect import Api, Request, Secret
from tidewire.errors import ConfigError
from tidewire.sources.declared.grammar import Auth

HIDDEN = "***"

_SLOT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_.]*)\}")
_OF_API = ("api.key", "api.secret")


@dataclass(frozen=True)
class Credentials:
    """What goes with every request, and is told to nobody else."""

    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    query: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def sign(self, asked: Request) -> Request:
        """The request with the keys in it."""
        if not self.secrets:
            return asked
        return replace(asked, headers={**asked.headers, **self.headers}, params={**asked.params, **self.query})

    def mask(self, text: str) -> str:
        """Text without them: addresses that stand in frames, what sites answer, errors."""
        for name in self.query:
            text = re.sub(rf"([?&]{re.escape(quote_plus(name))}=)[^&\s]*", rf"\1{HIDDEN}", text)
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def without(self, body: bytes) -> bytes:
        """A body without them, for what is written into files."""
        for secret in self.secrets:
            body = body.replace(secret.encode(), HIDDEN.encode())
        return body


def check_auth(auth: Auth, where: str) -> None:
    """`ConfigError` for what is no way to say who one is, or for a key in the file itself."""
    said = {"bearer": auth.bearer, "basic": auth.basic, "query": auth.query, "header": auth.header}
    if sum(map(bool, said.values())) != 1:
        raise ConfigError(f"{where}: write one of bearer, basic, query and header.")
    if auth.basic and len(auth.basic) != 2:
        raise ConfigError(f"{where}.basic: write a user and a password, such as [me, '${{SITE_PASSWORD}}'].")
    for name, text in _texts(auth):
        if not _SLOT.search(text):
            raise ConfigError(f"{where}.{name}: a key does not stand in a file: write '${{SITE_TOKEN}}', and set it.")
        for wanted in _SLOT.findall(text):
            if "." in wanted and wanted not in _OF_API:
                raise ConfigError(f"{where}.{name}: {wanted!r}: write {' or '.join(_OF_API)}, or a variable's name.")


def credentials(auth: Auth | None, api: Api, secret: Secret, where: str) -> Credentials:
    """The keys a file names; `ConfigError` for one that is not set."""
    if auth is None:
        return Credentials()
    secrets: list[str] = []

    def filled(text: str) -> str:
        return _SLOT.sub(one, text)

    def one(match: re.Match[str]) -> str:
        found = _found(match[1], api, secret).strip()
        if not found:
            how = f"set {match[1]} in its platform file" if "." in match[1] else "set it"
            raise ConfigError(f"{where}: request.auth: the environment has no {match[1]}: {how}, and start again.")
        secrets.extend(dict.fromkeys((found, quote(found, safe=""), quote_plus(found))))
        return found

    query = {name: filled(text) for name, text in auth.query.items()}
    headers = {name: filled(text) for name, text in auth.header.items()}
    if auth.bearer:
        headers["Authorization"] = f"Bearer {filled(auth.bearer)}"
    if auth.basic:
        packed = base64.b64encode(":".join(map(filled, auth.basic)).encode()).decode()
        headers["Authorization"] = f"Basic {packed}"
        secrets.append(packed)
    # The longest first: none may leave a part of another.
    return Credentials(headers, query, tuple(sorted(set(secrets), key=len, reverse=True)))


def _found(name: str, api: Api, secret: Callable[[str], str | None]) -> str:
    if name in _OF_API:
        return api.key if name == "api.key" else api.secret
    return secret(name) or ""


def _texts(auth: Auth) -> Iterator[tuple[str, str]]:
    """What must name a key; a user may stand in the file."""
    if auth.bearer:
        yield "bearer", auth.bearer
    if auth.basic:
        yield "basic", auth.basic[1]
    yield from ((f"query.{name}", text) for name, text in auth.query.items())
    yield from ((f"header.{name}", text) for name, text in auth.header.items())
