"""Pools of proxies: where they come from, how they did, and which one is taken next.

A pool is a list, a file (read again when it changes) or an address that tells proxies, one a line or as JSON. How a
proxy does is known for each family of sites by itself: one that Eastmoney has blocked may be good for Sina. What
fails is rested, each time twice as long; of the others the better ones are taken more often. Logins are in nobody's
sight: whatever is shown of a proxy leaves them out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec
from yarl import URL

from tidewire import telemetry
from tidewire.collect.masked import safe_text, told
from tidewire.errors import ConfigError, RateLimited, nearest
from tidewire.records.clock import Clock, Rng

PROXIES_MAX = 1_000
"""More of a pool are not looked at."""
TOLD_BYTES_MAX = 1 << 20
REST_S = 30.0
REST_S_MAX = 3600.0
HALF_LIFE_S = 1800.0
"""After so long half of what is known of a proxy has faded."""
LEARN = 0.3
"""How much of its success the last request says."""
PRIOR = 0.7
"""What is expected of a proxy that nobody has tried."""
LATENCY_S = 1.0
"""A latency that halves the chance of a proxy that works."""
LOOK_S = 1.0
"""How often a file may be looked at."""

SCHEMES = ("http", "https", "socks5", "socks5h")

_SECOND_NS = 1_000_000_000
_log = telemetry.log("collect")
_tried = telemetry.counter("collect_proxy_requests", "Requests over proxies: good, failed", ("pool", "outcome"))
_known = telemetry.gauge("collect_proxies", "Proxies that a pool has", ("pool",))


@dataclass(frozen=True)
class Proxy:
    """One proxy. ``url`` may hold a login; what is shown, compared in logs and told is `shown`."""

    url: str = field(repr=False)

    @property
    def scheme(self) -> str:
        """http, https, socks5 or socks5h."""
        return URL(self.url).scheme

    @property
    def shown(self) -> str:
        """The address without its login."""
        return safe_text(self.url)

    @property
    def key(self) -> str:
        """What it is known by inside; never shown."""
        return self.url


def proxy_of(text: str, where: str) -> Proxy:
    """``http://user:password@host:port``, or ``host:port`` for http; `ConfigError` for anything else."""
    written = text.strip()
    written = written if "://" in written else f"http://{written}"
    url = URL()
    with contextlib.suppress(ValueError):
        url = URL(written)
    if url.scheme not in SCHEMES or not url.host or url.explicit_port is None:
        raise ConfigError(f"{where}: {safe_text(written)!r} is no proxy; write {', '.join(SCHEMES)}://host:port.")
    return Proxy(written)  # and not the parsed one, which leaves out ports that curl would guess otherwise


@dataclass(frozen=True)
class PoolConfig:
    """Where a pool's proxies come from: one of ``listed``, ``file`` and ``url``.

    ``direct``: where no proxy is left, ask without one.
    """

    listed: Sequence[str] = field(default=(), repr=False)
    file: Path | None = None
    url: str = field(default="", repr=False)
    refresh_s: float = 300.0
    timeout_s: float = 10.0
    direct: bool = False


@dataclass
class _Health:
    """How a proxy did at one family of sites."""

    success: float = PRIOR
    latency_s: float = LATENCY_S
    failures: int = 0
    rested_until_ns: int = 0
    seen_ns: int = 0

    def faded(self, now_ns: int) -> float:
        """Its success as far as it still says something."""
        return PRIOR + (self.success - PRIOR) * 0.5 ** ((now_ns - self.seen_ns) / _SECOND_NS / HALF_LIFE_S)

    def weight(self, now_ns: int) -> float:
        """Its chance among others."""
        return max(0.01, self.faded(now_ns)) ** 2 / (LATENCY_S + self.latency_s)


class Pool:
    """The proxies of one name, and how each does."""

    def __init__(self, name: str, config: PoolConfig, clock: Clock, rng: Rng) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        self._rng = rng
        self._proxies: list[Proxy] = [proxy_of(text, f"proxies.{name}.list") for text in config.listed][:PROXIES_MAX]
        self._health: dict[tuple[str, str], _Health] = {}
        self._look_ns = 0
        self._read_ns: int | None = None
        self._problem = ""
        self._reading = asyncio.Lock()
        _known.labels(name).set(len(self._proxies))

    async def take(self, family: str, schemes: frozenset[str]) -> Proxy | None:
        """A proxy for a family of sites that a client of these ``schemes`` can use.

        ``None``: without one, where the pool may. `RateLimited` says when the next one has rested.
        """
        await self._refresh()
        now_ns = self._clock.mono_ns()
        usable = [each for each in self._proxies if each.scheme in schemes]
        ready = [each for each in usable if self._of(each, family).rested_until_ns <= now_ns]
        if ready:
            return self._drawn(ready, family, now_ns)
        if self.config.direct:
            return None
        if not usable:
            why = self._problem or f"it has {len(self._proxies)}, none of {', '.join(sorted(schemes))}"
            raise RateLimited(f"proxies.{self.name}: no proxy to ask with: {why}", LOOK_S)
        wait_s = (min(self._of(each, family).rested_until_ns for each in usable) - now_ns) / _SECOND_NS
        raise RateLimited(f"proxies.{self.name}: all {len(usable)} proxies rest at {family}", max(wait_s, LOOK_S))

    def others(self, family: str, schemes: frozenset[str]) -> bool:
        """Whether there is a way left at a family of sites: a proxy that is not resting, or none at all."""
        now_ns = self._clock.mono_ns()
        usable = (each for each in self._proxies if each.scheme in schemes)
        return self.config.direct or any(self._of(each, family).rested_until_ns <= now_ns for each in usable)

    def good(self, proxy: Proxy, family: str, seconds: float) -> None:
        """A request over it was answered as it should be, in so long."""
        health = self._seen(proxy, family, 1.0)
        health.latency_s += LEARN * (seconds - health.latency_s)
        health.failures = 0
        _tried.labels(self.name, "good").inc()

    def failed(self, proxy: Proxy, family: str, why: str, least_s: float = 0.0) -> float:
        """A request over it failed or was refused: it rests, for how many seconds."""
        health = self._seen(proxy, family, 0.0)
        health.failures += 1
        rest_s = min(REST_S * 2.0 ** min(health.failures - 1, 30), REST_S_MAX)
        rest_s = max(least_s, self._rng.uniform(rest_s, 1.3 * rest_s))
        health.rested_until_ns = self._clock.mono_ns() + round(rest_s * _SECOND_NS)
        _tried.labels(self.name, "failed").inc()
        _log.info("proxy rests", pool=self.name, proxy=proxy.shown, family=family, rest_s=rest_s, why=safe_text(why))
        return rest_s

    def status(self, family: str) -> list[dict[str, Any]]:
        """How its proxies do at a family of sites; times are UTC nanoseconds, ``None`` for now."""
        now_ns, wall_ns = self._clock.mono_ns(), self._clock.wall_ns()
        found: list[dict[str, Any]] = []
        for proxy in self._proxies:
            health = self._health.get((proxy.key, family), _Health())
            left_ns = health.rested_until_ns - now_ns
            found.append(
                {
                    "proxy": proxy.shown,
                    "score": round(health.faded(now_ns), 3),
                    "latency_s": round(health.latency_s, 3) if health.seen_ns else None,
                    "rested_until_ns": wall_ns + left_ns if left_ns > 0 else None,
                }
            )
        return found

    def _drawn(self, ready: Sequence[Proxy], family: str, now_ns: int) -> Proxy:
        weights = [self._of(each, family).weight(now_ns) for each in ready]
        at = self._rng.uniform(0.0, sum(weights))
        for proxy, weight in zip(ready, weights, strict=True):
            at -= weight
            if at <= 0:
                return proxy
        return ready[-1]

    def _of(self, proxy: Proxy, family: str) -> _Health:
        return self._health.get((proxy.key, family)) or _Health()

    def _seen(self, proxy: Proxy, family: str, outcome: float) -> _Health:
        health = self._health.setdefault((proxy.key, family), _Health())
        now_ns = self._clock.mono_ns()
        success = health.faded(now_ns)
        health.success = success + LEARN * (outcome - success)
        health.seen_ns = now_ns
        return health

    # -- where they come from ---------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Read the file if it changed, or ask the address if it is time; what was known stays if that fails."""
        if not self.config.file and not self.config.url:
            return
        async with self._reading:
            if self._look_ns and self._clock.mono_ns() < self._look_ns:
                return
            try:
                found = await self._found()
            except (OSError, TimeoutError, ValueError, aiohttp.ClientError, ConfigError) as error:
                self._problem = told(error)
                wait_s = min(self.config.refresh_s, REST_S)
                _log.warning("proxies cannot be read", pool=self.name, error=self._problem, wait_s=wait_s)
            else:
                wait_s = LOOK_S if self.config.file is not None else self.config.refresh_s
                if found is not None:
                    self._take_over(found)
            self._look_ns = self._clock.mono_ns() + round(wait_s * _SECOND_NS)

    async def _found(self) -> list[Proxy] | None:
        """What the source of the pool says now; ``None``: as before."""
        where = f"proxies.{self.name}"
        if self.config.file is not None:
            read = await asyncio.to_thread(_read_file, self.config.file, self._read_ns)
            if read is None:
                return None
            self._read_ns, data = read
        else:
            data = await _ask(self.config.url, self.config.timeout_s)
        return proxies_told(data, where)

    def _take_over(self, found: Sequence[Proxy]) -> None:
        kept = list(dict.fromkeys(found))[:PROXIES_MAX]
        if len(found) > PROXIES_MAX:
            _log.warning("more proxies than are looked at", pool=self.name, found=len(found), most=PROXIES_MAX)
        self._problem = "" if kept else "it is empty"
        self._proxies = kept
        keys = {proxy.key for proxy in kept}
        self._health = {place: health for place, health in self._health.items() if place[0] in keys}
        _known.labels(self.name).set(len(kept))


class Proxies:
    """The pools of a platform, by name."""

    def __init__(self, pools: Mapping[str, Pool] | None = None) -> None:
        self._pools = dict(pools or {})

    def get(self, name: str) -> Pool:
        """The pool of that name; `ConfigError` with the nearest valid one."""
        try:
            return self._pools[name]
        except KeyError:
            valid = ", ".join(self._pools) or "none; name one under `proxies` of the platform file"
            raise ConfigError(f"no pool of proxies {name!r}.{nearest(name, self._pools)} Valid: {valid}.") from None


def proxies_told(data: bytes, where: str) -> list[Proxy]:
    """Proxies one a line (empty lines and those after ``#`` are left out), or as JSON.

    JSON: a list, or an object with one in it (``data``, ``proxies``, ...), of texts or of objects with ``proxy``, or
    with ``ip`` or ``host`` and ``port``. `ConfigError` for anything else.
    """
    text = data.decode("utf-8", "replace").strip()
    if text[:1] in ("[", "{"):
        try:
            entries = _entries(msgspec.json.decode(text))
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{where}: begins like JSON and is none: {error}.") from None
        return [proxy_of(_written(entry, where), where) for entry in entries]
    lines = (line.strip() for line in text.splitlines())
    return [proxy_of(line, where) for line in lines if line and not line.startswith("#")]


def _entries(document: Any) -> list[Any]:
    """The list of a document, however deep it is wrapped."""
    while isinstance(document, dict):
        inner = cast("dict[str, Any]", document)
        if "proxy" in inner or "port" in inner:
            return [inner]
        document = next((value for value in inner.values() if isinstance(value, (list, dict))), [])
    return cast("list[Any]", document)


def _written(entry: Any, where: str) -> str:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict):
        named = cast("dict[str, Any]", entry)
        if isinstance(named.get("proxy"), str):
            return named["proxy"]
        host, port = named.get("ip") or named.get("host"), named.get("port")
        if host and port:
            login = f"{named['user']}:{named.get('password', '')}@" if named.get("user") else ""
            return f"{named.get('scheme') or named.get('protocol') or 'http'}://{login}{host}:{port}"
    raise ConfigError(f"{where}: an entry is neither text nor an object with proxy, or ip and port.")


def _read_file(path: Path, read_ns: int | None) -> tuple[int, bytes] | None:
    """When it was changed, and what it says; ``None`` if it was not changed since."""
    changed_ns = path.stat().st_mtime_ns
    if changed_ns == read_ns:
        return None
    with path.open("rb") as file:
        return changed_ns, file.read(TOLD_BYTES_MAX)


async def _ask(url: str, timeout_s: float) -> bytes:
    """What an address says, at most `TOLD_BYTES_MAX`."""
    limit = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=limit) as session, session.get(url) as response:
        response.raise_for_status()
        parts: list[bytes] = []
        async for chunk in response.content.iter_chunked(1 << 16):
            parts.append(chunk)
            if sum(map(len, parts)) > TOLD_BYTES_MAX:
                raise ConfigError(f"the list is longer than {TOLD_BYTES_MAX:,} bytes")
        return b"".join(parts)
