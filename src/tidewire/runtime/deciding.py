"""Quarantine for the command line: through a running platform, or in the files of one that rests.

At rest a decision is written into the journal and stored by the pipe itself, which runs for as long as that takes;
nothing is collected meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from tidewire.errors import NotFound
from tidewire.records.clock import SystemClock
from tidewire.runtime.archiving import history_of
from tidewire.runtime.config import BusSection, Loaded
from tidewire.runtime.platform import Tidewire
from tidewire.runtime.quarantine_cases import Cases, Name
from tidewire.runtime.reading import Reading
from tidewire.serve.quarantine import Ask


class Deciding(Reading):
    """Looks into quarantine and decides."""

    async def show(self, name: Name) -> dict[str, Any]:
        """A frame with rows in quarantine: its bytes, the rows, all that was decided."""
        if self._running is None:
            async with self._cases() as cases:
                return await cases.show(name.journal, name.frame)
        return (await self._api(f"/v1/quarantine/{name.journal or '-'}/{name.frame}", {}))["data"]

    async def rules(self) -> dict[str, Any]:
        """How many rows each rule sent into quarantine, and what became of them."""
        if self._running is None:
            async with self._cases() as cases:
                return await cases.rules()
        return (await self._api("/v1/quarantine/rules", {}))["data"]

    async def decide(self, ask: Ask) -> dict[str, Any]:
        """Decide, and return what came of it."""
        if self._running is not None:
            return (await self._api("/v1/quarantine/decide", {}, ask))["data"]
        if not self.data_dir.is_dir():
            raise NotFound(f"{self.data_dir}: no such data directory. Name one with --data, or a config with --config.")
        loaded = self._loaded
        # One process, for a moment: it needs no server to carry its events.
        config = msgspec.structs.replace(loaded.config, data_dir=str(self.data_dir.absolute()), bus=BusSection())
        here = Loaded(config, loaded.sources, loaded.base, loaded.origin, loaded.origins)
        platform = Tidewire(here, collect=False)
        await platform.start()
        try:
            return await platform.quarantine.decide(ask)
        finally:
            await platform.stop()

    @contextlib.asynccontextmanager
    async def _cases(self) -> AsyncGenerator[Cases]:
        async with self._store() as store:
            try:
                frames = history_of(self._loaded.config, self.data_dir)
            except NotFound:
                frames = None
            yield Cases(store, frames, SystemClock())
