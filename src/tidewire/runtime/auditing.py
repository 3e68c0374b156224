"""The audit with all it needs: a store, the journals its frames are read from again, and today's parsers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tidewire.collect import Assembler, Parser
from tidewire.errors import NotFound, StoreBusy
from tidewire.journal import Frame, History
from tidewire.records.batch import Batch
from tidewire.runtime.archiving import history_of
from tidewire.runtime.config import Config
from tidewire.serve.params import AuditRequest
from tidewire.store.protocol import Store
from tidewire.watch.audit import Accepted, audit
from tidewire.watch.books import Scope
from tidewire.watch.frames import Frames
from tidewire.watch.trace import Evidence

Tell = Callable[[int, int], None]


class Auditing:
    """Answers requests for an audit; `Reading` and the running platform share it.

    ``parsers`` gives those of all sources, knowing the instruments that are stored. ``journals`` are the journals whose
    frames are to be had, opened anew for each audit: it reads them in threads of its own.
    """

    def __init__(
        self,
        store: Store,
        parsers: Callable[[], Awaitable[Mapping[str, Parser]]],
        journals: Callable[[], Sequence[Frames]],
    ) -> None:
        self._store = store
        self._parsers = parsers
        self._journals = journals
        self._naming = False

    async def answer(self, request: AuditRequest, accepted: Accepted, tell: Tell | None = None) -> dict[str, Any]:
        """What was asked for, as plain data; ``tell`` hears how many of how many hours are read again.

        Raises:
            StoreBusy: rows are being named already; one such audit at a time, it reads frames again.
        """
        scope = Scope(request.sources, request.types, request.start, request.end)
        books = await audit(self._store, accepted, scope)
        if request.frames == "none":
            return books.as_dict()
        if request.frames == "differing" and not books.difference:
            return replace(books, frames=[]).as_dict()
        if self._naming:
            raise StoreBusy("An audit that names rows is running, and there is one at a time; try again soon.")
        self._naming = True
        try:
            parsers = await self._parsers()
            evidence = Evidence(self._journals, assembling(parsers), frozenset(parsers), tell)
            return (await audit(self._store, accepted, scope, evidence, request.frames)).as_dict()
        finally:
            self._naming = False


def assembling(parsers: Mapping[str, Parser]) -> Callable[[str, Sequence[Frame]], list[Batch]]:
    """Frames to batches, each time from nothing but what the parsers know."""

    def assemble(journal: str, frames: Sequence[Frame]) -> list[Batch]:
        assembler = Assembler(journal, parsers)
        assembler.start({})
        return assembler.step(frames)

    return assemble


def journals_at(config: Config, data: Path) -> list[History]:
    """The journal of a data directory with its archive, if there is one."""
    try:
        return [history_of(config, data)]
    except NotFound:
        return []
