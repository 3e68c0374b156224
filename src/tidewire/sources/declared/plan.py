"""What is asked for of one combination, in order: for whoever asks one thing after the other."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from tidewire.collect import Request
from tidewire.sources.declared.asking import STATUSES, Templates, page_parameters, request
from tidewire.sources.declared.expression import searcher
from tidewire.sources.declared.source import Source


class Step(NamedTuple):
    """A request, and the names it was made of."""

    names: Mapping[str, Any]
    asked: Request


def plan(source: Source, texts: Templates, names: Mapping[str, Any]) -> Generator[Step, Any]:
    """Each request; takes the document of its reply. When there is enough, whoever asks must know, but for code."""
    declared, paginate = source.declared, source.declared.paginate
    if source.hook is not None and source.hook.asks:
        requests = source.hook.requests(names)
        document: Any = None
        while True:
            try:
                asked = requests.send(document)
            except StopIteration:
                return
            document = yield Step(names, replace(asked, ok_statuses=STATUSES))
    if paginate is None:
        yield Step(names, request(declared, texts, names, {}))
        return
    if paginate.cursor:
        follow, cursor = searcher(paginate.next, "paginate.next"), None
        while True:
            paging = {**paginate.size} | ({} if cursor is None else {paginate.cursor: cursor})
            document = yield Step(names, request(declared, texts, names, paging))
            cursor = follow(document)
            if cursor in (None, ""):
                return
    for at in itertools.count():
        here = {**names, "page": paginate.start + at}
        yield Step(here, request(declared, texts, here, page_parameters(paginate, at)))
