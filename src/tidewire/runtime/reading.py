"""Reading for the command line: through the API of a running platform, or straight from the files of one that rests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from tidewire.bus import MemoryBus
from tidewire.collect import Parser
from tidewire.errors import DecisionRefused, InputError, NotFound, TransientError
from tidewire.records.clock import SystemClock, SystemRng
from tidewire.records.forms import for_json
from tidewire.records.instrument import InstrumentBook
from tidewire.runtime import installed
from tidewire.runtime.auditing import Auditing, Tell, journals_at
from tidewire.runtime.config import Loaded
from tidewire.runtime.platform import load_instruments, make_store
from tidewire.runtime.sealing import sealable, tier_of
from tidewire.runtime.supervise import RUN_FILE, Running, found_running
from tidewire.serve.answers import MEDIA
from tidewire.serve.params import Params, understand_audit
from tidewire.serve.platform import Platform
from tidewire.serve.service import Service
from tidewire.store.cache import LatestCache
from tidewire.store.protocol import Store
from tidewire.watch.audit import Accepted

TIMEOUT_S = 90.0
NAMING_TIMEOUT_S = 3_600.0
"""An audit that names rows reads frames again, hours of them if asked to."""


class Reading:
    """Answers for the command line. ``how`` says where they come from."""

    def __init__(self, data_dir: Path, loaded: Loaded) -> None:
        self.data_dir = data_dir
        self._loaded = loaded
        self._running: Running | None = found_running(data_dir)

    @property
    def how(self) -> str:
        """Where answers come from, for people."""
        if self._running is not None:
            return f"asked the running platform (pid {self._running.pid}) at {self._running.url}"
        return f"read {self.data_dir} directly; no platform is running on it"

    async def rows(
        self, name: str, params: Mapping[str, Sequence[str]], *, latest: bool = False
    ) -> list[dict[str, Any]]:
        """Rows of a type in their JSON form."""
        if self._running is not None:
            path = f"/v1/{name}/latest" if latest else f"/v1/{name}"
            return (await self._api(path, params))["data"]
        async with self._store() as store:
            service = await self._service(store)
            answer = await (service.latest if latest else service.read)(name, params)
            return for_json(answer.rows, answer.numbers).to_dicts()

    async def audit(self, params: Params, tell: Tell | None = None) -> dict[str, Any]:
        """The books, and what differs; ``tell`` hears how far the naming is, unless a platform is asked."""
        request = understand_audit(params)
        if self._running is not None:
            timeout_s = TIMEOUT_S if request.frames == "none" else NAMING_TIMEOUT_S
            return (await self._api("/v1/audit", params, timeout_s=timeout_s))["data"]
        async with self._store() as store:
            journals = journals_at(self._loaded.config, self.data_dir)
            accepted = Accepted(journals[0].uuid, journals[0].accepted) if journals else Accepted()
            auditing = Auditing(store, lambda: self._parsers(store), lambda: journals)
            return await auditing.answer(request, accepted, tell)

    async def _parsers(self, store: Store) -> Mapping[str, Parser]:
        registry = installed.registry()
        registry.discover(self._loaded.plugins)
        book = InstrumentBook()
        await load_instruments(book, store)
        return registry.parsers(book)

    async def sources(self) -> list[dict[str, Any]]:
        """Status of the sources of the running platform; none when nothing runs."""
        if self._running is None:
            return []
        return (await self._api("/v1/sources", {}))["data"]

    async def backfill(self) -> list[dict[str, Any]]:
        """How far the loading of history is, by series."""
        if self._running is None:
            raise InputError(f"No platform runs on {self.data_dir}; history is loaded while one does: `tidewire up`.")
        return (await self._api("/v1/backfill", {}))["data"]

    async def refill(self, source: str | None) -> list[str]:
        """Have sources look at their gaps again; which were asked."""
        if self._running is None:
            raise InputError(f"No platform runs on {self.data_dir}; gaps are filled while one does: `tidewire up`.")
        return (await self._api("/v1/gaps/fill", {}, {"source": source}))["data"]["asked"]

    async def reload(self) -> dict[str, Any]:
        """Have the running platform look at its plugin directory; which sources run, and what did not load."""
        if self._running is None:
            raise InputError(
                f"No platform runs on {self.data_dir}; what is there is loaded at its start: `tidewire up`."
            )
        return (await self._api("/v1/sources/reload", {}, {}))["data"]

    async def seal(self) -> list[Any]:
        """Seal what is finished; what each step did. A running platform seals by itself."""
        if self._running is not None:
            raise InputError(
                f"A platform runs on {self.data_dir} (pid {self._running.pid}); with cold.enabled it seals by itself, "
                "and no other process can open its store. Stop it first to seal now."
            )
        async with self._store() as store:
            return await sealable(store).seal()

    async def _api(self, path: str, params: Params, body: Any = None, timeout_s: float = TIMEOUT_S) -> Any:
        """What the running platform answers: to GET, or to POST with a body of JSON."""
        assert self._running is not None
        pairs = [(key, value) for key, values in params.items() for value in values]
        method, sent = ("GET", None) if body is None else ("POST", msgspec.json.encode(body))
        headers = {} if sent is None else {"content-type": MEDIA}
        try:
            # Not through a proxy: the platform is on this machine.
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(timeout_s), trust_env=False) as session,
                session.request(method, self._running.url + path, params=pairs, data=sent, headers=headers) as reply,
            ):
                answer = msgspec.json.decode(await reply.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransientError(
                f"The platform at {self._running.url} does not answer: {error}. "
                f"If no platform runs on {self.data_dir}, remove {RUN_FILE} there; a killed one left it."
            ) from error
        if reply.status >= 400:
            kind = DecisionRefused if reply.status == 409 else InputError
            raise kind(answer.get("detail", answer.get("title", f"status {reply.status}")))
        return answer

    @contextlib.asynccontextmanager
    async def _store(self) -> AsyncGenerator[Store]:
        if not self.data_dir.is_dir():
            raise NotFound(f"{self.data_dir}: no such data directory. Name one with --data, or a config with --config.")
        config = self._loaded.config
        store = make_store(config, self.data_dir, tier_of(config, self.data_dir))
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    async def _service(self, store: Store) -> Service:
        book = InstrumentBook()
        await load_instruments(book, store)
        clock = SystemClock()
        platform = Platform(
            store=store, cache=LatestCache(), bus=MemoryBus(clock), clock=clock, rng=SystemRng(), resolve=book.resolve
        )
        return Service(platform)
