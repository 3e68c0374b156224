"""The HTTP client of every source: budgeted, bounded, retried, and honest about what came back."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from tidewire import telemetry
from tidewire.collect.budget import Budget, Budgets
from tidewire.collect.masked import named, safe_text
from tidewire.collect.transport import Incoming, Opener, Outgoing, Patience, PlainTransport, Transport
from tidewire.collect.unpack import unpacker
from tidewire.collect.ways import DIRECT, Way, Ways
from tidewire.errors import InputError, RateLimited, SourceError, TerminalError, TransientError
from tidewire.records.clock import Clock, Rng, UpstreamClock

TIME_HEADER = "x-tidewire-time"
"""In which an upstream with a clock of its own says its time, UTC nanoseconds."""

SPEED_HEADER = "x-tidewire-speed"
"""In which it says at how many times real speed that clock goes on; without it, it stands between two replies."""

_SECOND_NS = 1_000_000_000
_OK = frozenset({200})

# A refusal is read only as far as a person would read it.
_REFUSAL_BYTES = 4096
_REFUSAL_CHARS = 300

# Small bodies may compress as well as they like: a ratio says something about a bomb only beyond this size.
_RATIO_FROM_BYTES = 1 << 20

_log = telemetry.log("collect")
_requests = telemetry.counter(
    "collect_http_requests", "HTTP attempts by outcome: ok, transient, terminal, rate_limited", ("host", "outcome")
)
_seconds = telemetry.histogram("collect_http_seconds", "Time from sending a request to the end of its body", ("host",))
_bytes = telemetry.counter("collect_http_received_bytes", "Body bytes received, as on the wire", ("host",))
_retries = telemetry.counter("collect_http_retries", "HTTP attempts after the first", ("host",))

_SPEED = re.compile(r"\d{1,6}(?:\.\d{1,6})?", re.ASCII)


@dataclass(frozen=True)
class HttpConfig:
    """How a client behaves.

    ``connect_timeout_s`` and ``total_timeout_s`` bound one attempt, ``allowed_s`` a request with all its waiting
    and attempts. ``body_bytes_max`` bounds the decoded body, ``ratio_max`` decoded over received bytes.
    ``headers`` is called for each attempt and may carry keys: what it returns is sent and never logged.
    ``weight_header`` names the response header with the host's own count of the running minute. ``proxy`` wins over
    the environment's ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``, which ``trust_env`` allows; loopback hosts
    are never reached through the environment's proxy. ``ways`` choose proxy and browser of each attempt instead, and
    are told what became of it; ``judged``: a reply is good only once whoever asked says so to them. ``page``: what is
    asked for is what a person opens, not what a page asks for. ``transport`` makes the client on the wire.
    """

    connect_timeout_s: float = 5.0
    total_timeout_s: float = 30.0
    allowed_s: float = 120.0
    attempts: int = 4
    backoff_s: float = 0.5
    backoff_s_max: float = 30.0
    retry_after_s: float = 10.0
    body_bytes_max: int = 64 << 20
    ratio_max: float = 200.0
    connections_per_host: int = 8
    proxy: str | None = field(default=None, repr=False)
    trust_env: bool = True
    weight_header: str | None = None
    headers: Callable[[], Mapping[str, str]] | None = None
    user_agent: str = "tidewire"
    clock: UpstreamClock | None = None
    ways: Ways | None = None
    judged: bool = False
    page: bool = False
    transport: Opener = PlainTransport

    def __post_init__(self) -> None:
        positive = ("connect_timeout_s", "total_timeout_s", "allowed_s", "attempts", "body_bytes_max", "ratio_max")
        for name in (*positive, "connections_per_host"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be above zero.")


@dataclass(frozen=True)
class Request:
    """What to ask for. ``weight`` is what the host counts for it; other statuses than ``ok_statuses`` are errors.

    ``background``: it can wait, and stands behind everything live in the host's budget. ``wanted``: of what a browser
    loads with a page, the first response whose address has this in it is the answer, in place of the page.
    """

    url: str
    params: Mapping[str, str] = field(default_factory=dict[str, str])
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes | None = None
    weight: int = 1
    ok_statuses: frozenset[int] = _OK
    background: bool = False
    wanted: str = ""


@dataclass(frozen=True)
class Reply:
    """What came back: ``headers`` with lower-case names, the decoded ``body``, ``received_ns`` (UTC) at its end.

    ``url`` is the whole URL asked for, with the values of secret parameters replaced; ``elapsed_s`` covers the last
    attempt, without waiting for a turn. ``way`` is how it was asked for.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    url: str
    received_ns: int
    elapsed_s: float
    way: Way = DIRECT


class HttpClient:
    """Asks hosts within their budgets. One client for each source; close it when done.

    Network errors, time-outs, 5xx and 408 are tried again after a capped exponential back-off with full jitter. A 429
    or 418 pauses the host for everyone as long as its ``Retry-After`` says. Redirects are not followed: a request may
    carry keys meant for one host only.
    """

    def __init__(
        self, clock: Clock, rng: Rng, config: HttpConfig | None = None, budgets: Budgets | None = None
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._config = config or HttpConfig()
        self._budgets = budgets or Budgets(clock)
        self._transport: Transport | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        self._closed = True
        if self._transport is not None:
            await self._transport.close()

    def allow(self, url: str, weight_per_minute: int) -> None:
        """Take over the limit of request weight that a host itself tells."""
        self._budgets.of(URL(url).authority.rpartition("@")[2]).allow(weight_per_minute)

    async def get(
        self, url: str, params: Mapping[str, str] | None = None, *, weight: int = 1, background: bool = False
    ) -> Reply:
        """`request` for the common case."""
        return await self.request(Request(url, params or {}, weight=weight, background=background))

    async def request(self, asked: Request) -> Reply:
        """Ask, and ask again where that can help.

        Raises `TerminalError` for a refusal or an unusable body, `RateLimited` when the host wants a longer pause
        than ``allowed_s`` leaves or every proxy rests, `TransientError` when the attempts or the time are used up.
        """
        url = _url(asked)
        host = url.authority.rpartition("@")[2]
        budget = self._budgets.of(host)
        ends_ns = self._clock.mono_ns() + round(self._config.allowed_s * _SECOND_NS)
        attempt = 1
        while True:
            way = await self._config.ways.take() if self._config.ways is not None else DIRECT
            await budget.spend(asked.weight, self._left_s(ends_ns), background=asked.background)
            try:
                reply = await self._attempt(asked, url, budget, way)
            except RateLimited as error:
                _requests.labels(host, "rate_limited").inc()
                budget.pause(error.retry_after)
                if attempt >= self._config.attempts or error.retry_after > self._left_s(ends_ns):
                    raise
                wait_s = 0.0
            except TransientError as error:
                _requests.labels(host, "transient").inc()
                wait_s = self._backoff_s(attempt)
                if attempt >= self._config.attempts or wait_s > self._left_s(ends_ns):
                    raise
                _log.info("http attempt failed", host=host, attempt=attempt, wait_s=wait_s, error=str(error))
            except TerminalError:
                _requests.labels(host, "terminal").inc()
                raise
            else:
                _requests.labels(host, "ok").inc()
                return reply
            finally:
                budget.done()
            if wait_s:
                await self._clock.sleep(wait_s)
            attempt += 1
            _retries.labels(host).inc()

    async def _attempt(self, asked: Request, url: URL, budget: Budget, way: Way) -> Reply:
        config = self._config
        transport = self._opened()
        sent_ns, began_ns = self._clock.wall_ns(), self._clock.mono_ns()
        out = self._outgoing(asked, url, way)
        try:
            async with transport.ask(out) as incoming:
                self._learn(incoming.headers, budget, sent_ns)
                self._tell_time(incoming.headers)
                if incoming.status not in asked.ok_statuses:
                    raise self._refusal(out, incoming, await self._read_refusal(incoming, out))
                body = await self._read(incoming, out, config.body_bytes_max)
        except TransientError as error:
            error.elsewhere = config.ways is not None and config.ways.failed(way, str(error))
            raise
        elapsed_s = (self._clock.mono_ns() - began_ns) / _SECOND_NS
        _seconds.labels(url.authority.rpartition("@")[2]).observe(elapsed_s)
        if config.ways is not None and not config.judged:
            config.ways.good(way, elapsed_s)
        shown = safe_text(str(url))
        return Reply(incoming.status, incoming.headers, body, shown, self._clock.wall_ns(), elapsed_s, way)

    def _outgoing(self, asked: Request, url: URL, way: Way) -> Outgoing:
        """The request as it goes by this way."""
        config = self._config
        keys = config.headers() if config.headers is not None else {}
        dressed = way.identity.dressed(page=config.page) if way.identity is not None else {}
        return Outgoing(
            asked.method,
            url,
            {**keys, **asked.headers},
            {"User-Agent": config.user_agent, **dressed},
            asked.body,
            way.proxy.url if way.proxy is not None else config.proxy or env_proxy(url, config.trust_env),
            way.identity,
            asked.wanted,
        )

    async def _read(self, incoming: Incoming, out: Outgoing, limit: int, *, cut: bool = False) -> bytes:
        """The decoded body, at most ``limit`` bytes: beyond that it is cut off or refused."""
        received = 0
        parts: list[bytes] = []
        size = 0
        where = named(out.method, out.url)
        decoder = unpacker(incoming.encoding, where)
        counted = _bytes.labels(out.url.authority.rpartition("@")[2])
        async for chunk in incoming.chunks():
            received += len(chunk)
            counted.inc(len(chunk))
            for piece in decoder.feed(chunk):
                size += len(piece)
                parts.append(piece)
                if size > limit and cut:
                    incoming.close()
                    return b"".join(parts)[:limit]
                if size > limit or (size > _RATIO_FROM_BYTES and size > received * self._config.ratio_max):
                    incoming.close()
                    raise TerminalError(
                        f"{where}: the body is too large ({received} bytes received, over {size} decoded; allowed are "
                        f"{limit} and {self._config.ratio_max:g} times what was received)"
                    )
        if received and not decoder.complete and not cut:
            raise TransientError(f"{where}: the compressed body ends too early")
        return b"".join(parts)

    async def _read_refusal(self, incoming: Incoming, out: Outgoing) -> str:
        """What a refusal says, as far as it can be read: its status counts even if its body is broken."""
        try:
            body = await self._read(incoming, out, _REFUSAL_BYTES, cut=True)
        except (aiohttp.ClientError, OSError, SourceError) as error:
            return f"(body unreadable: {type(error).__name__})"
        return body.decode("utf-8", "replace").strip()[:_REFUSAL_CHARS]

    def _refusal(self, out: Outgoing, incoming: Incoming, text: str) -> TransientError | TerminalError:
        """The error for a status that was not asked for."""
        status, headers = incoming.status, incoming.headers
        said = f"{named(out.method, out.url)} answered {status}" + (f": {text}" if text else "")
        if status in (429, 418):
            wait_s = retry_after_s(headers, self._clock)
            wait_s = self._config.retry_after_s if wait_s is None else wait_s
            return RateLimited(f"{said} (asked to wait {wait_s:g} s)", wait_s)
        if status >= 500 or status == 408:
            return TransientError(said)
        if 300 <= status < 400:
            return TerminalError(f"{said}; it moved to {headers.get('location', 'nowhere')!r}, use that address")
        return TerminalError(said)

    def _learn(self, headers: Mapping[str, str], budget: Budget, sent_ns: int) -> None:
        name = self._config.weight_header
        if name is not None and (text := headers.get(name.lower(), "")).isdecimal():
            budget.learn(int(text), sent_ns)

    def _tell_time(self, headers: Mapping[str, str]) -> None:
        """Take the time of an upstream with a clock of its own, where the product runs on it."""
        told_ns = headers.get(TIME_HEADER, "")
        if self._config.clock is not None and told_ns.isdecimal():
            speed = headers.get(SPEED_HEADER, "")
            # A pace, so a float will do.
            self._config.clock.tell(int(told_ns), float(speed) if _SPEED.fullmatch(speed) else 0.0)

    def _backoff_s(self, attempt: int) -> float:
        config = self._config
        return self._rng.uniform(0.0, min(config.backoff_s_max, config.backoff_s * 2.0 ** min(attempt - 1, 30)))

    def _left_s(self, ends_ns: int) -> float:
        return max(0.0, (ends_ns - self._clock.mono_ns()) / _SECOND_NS)

    def _opened(self) -> Transport:
        if self._closed:
            raise TransientError("the HTTP client is closed")
        if self._transport is None:
            config = self._config
            patience = Patience(config.connect_timeout_s, config.total_timeout_s, config.connections_per_host)
            self._transport = config.transport(patience)
        return self._transport


def retry_after_s(headers: Mapping[str, str], clock: Clock) -> float | None:
    """Seconds of a ``Retry-After`` header, which holds seconds or a date; ``None`` without one."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return float(text)
    try:
        at_s = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    return max(0.0, at_s - clock.wall_ns() / _SECOND_NS)


def env_proxy(url: URL, trust_env: bool) -> str | None:
    """The proxy that the environment names for this URL; ``None`` for loopback hosts and where there is none."""
    host = url.host or ""
    if not trust_env or _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    scheme = {"ws": "http", "wss": "https"}.get(url.scheme, url.scheme)
    return urllib.request.getproxies().get(scheme)


def _url(asked: Request) -> URL:
    try:
        url = URL(asked.url)
    except ValueError as error:
        raise InputError(f"{safe_text(asked.url)!r} is not a URL: {error}.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"{safe_text(asked.url)!r} is not usable: write http:// or https:// and a host.")
    return url.update_query(asked.params) if asked.params else url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def websocket_url(url: str) -> URL:
    """A WebSocket's URL; `InputError` for anything else."""
    found = URL(url)
    if found.scheme not in ("ws", "wss") or not found.host:
        raise InputError(f"{safe_text(url)!r} is not usable: write ws:// or wss:// and a host.")
    return found
