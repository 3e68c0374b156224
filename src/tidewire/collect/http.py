"""The HTTP client of every source: budgeted, bounded, retried, and honest about what came back."""

from __future__ import annotations

import re
import ssl
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self, cast

import aiohttp
from yarl import URL

from tidewire import telemetry
from tidewire.collect.budget import Budget, Budgets
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
_INFLATE_STEP_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"

_log = telemetry.log("collect")
_requests = telemetry.counter(
    "collect_http_requests", "HTTP attempts by outcome: ok, transient, terminal, rate_limited", ("host", "outcome")
)
_seconds = telemetry.histogram("collect_http_seconds", "Time from sending a request to the end of its body", ("host",))
_bytes = telemetry.counter("collect_http_received_bytes", "Body bytes received, as on the wire", ("host",))
_retries = telemetry.counter("collect_http_retries", "HTTP attempts after the first", ("host",))

_SPEED = re.compile(r"\d{1,6}(?:\.\d{1,6})?", re.ASCII)
_USERINFO = re.compile(r"//[^/@\s]+@")


@dataclass(frozen=True)
class HttpConfig:
    """How a client behaves.

    ``connect_timeout_s`` and ``total_timeout_s`` bound one attempt, ``allowed_s`` a request with all its waiting
    and attempts. ``body_bytes_max`` bounds the decoded body, ``ratio_max`` decoded over received bytes.
    ``headers`` is called for each attempt and may carry keys: what it returns is sent and never logged.
    ``weight_header`` names the response header with the host's own count of the running minute. ``proxy`` wins over
    the environment's ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``, which ``trust_env`` allows; loopback hosts
    are never reached through the environment's proxy.
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

    def __post_init__(self) -> None:
        positive = ("connect_timeout_s", "total_timeout_s", "allowed_s", "attempts", "body_bytes_max", "ratio_max")
        for name in (*positive, "connections_per_host"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be above zero.")


@dataclass(frozen=True)
class Request:
    """What to ask for. ``weight`` is what the host counts for it; other statuses than ``ok_statuses`` are errors.

    ``background``: it can wait, and stands behind everything live in the host's budget.
    """

    url: str
    params: Mapping[str, str] = field(default_factory=dict[str, str])
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes | None = None
    weight: int = 1
    ok_statuses: frozenset[int] = _OK
    background: bool = False


@dataclass(frozen=True)
class Reply:
    """What came back: ``headers`` with lower-case names, the decoded ``body``, ``received_ns`` (UTC) at its end.

    ``url`` is the whole URL asked for, with the values of secret parameters replaced; ``elapsed_s`` covers the last
    attempt, without waiting for a turn.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    url: str
    received_ns: int
    elapsed_s: float


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
        self._session: aiohttp.ClientSession | None = None
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
        if self._session is not None:
            await self._session.close()

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
        than ``allowed_s`` leaves, `TransientError` when the attempts or the time are used up.
        """
        url = _url(asked)
        host = url.authority.rpartition("@")[2]
        budget = self._budgets.of(host)
        ends_ns = self._clock.mono_ns() + round(self._config.allowed_s * _SECOND_NS)
        attempt = 1
        while True:
            await budget.spend(asked.weight, self._left_s(ends_ns), background=asked.background)
            try:
                reply = await self._attempt(asked, url, budget)
            except RateLimited as error:
                _requests.labels(host, "rate_limited").inc()
                budget.pause(error.retry_after)
                if attempt >= self._config.attempts or error.retry_after > self._left_s(ends_ns):
                    raise
            except TransientError as error:
                _requests.labels(host, "transient").inc()
                wait_s = self._backoff_s(attempt)
                if attempt >= self._config.attempts or wait_s > self._left_s(ends_ns):
                    raise
                _log.info("http attempt failed", host=host, attempt=attempt, wait_s=wait_s, error=str(error))
                await self._clock.sleep(wait_s)
            except TerminalError:
                _requests.labels(host, "terminal").inc()
                raise
            else:
                _requests.labels(host, "ok").inc()
                return reply
            attempt += 1
            _retries.labels(host).inc()

    async def _attempt(self, asked: Request, url: URL, budget: Budget) -> Reply:
        config = self._config
        sent_ns, began_ns = self._clock.wall_ns(), self._clock.mono_ns()
        keys = config.headers() if config.headers is not None else {}
        options, login = self._proxy_for(url)
        try:
            async with self._opened().request(
                asked.method,
                url,
                headers={**keys, **asked.headers, **login},
                data=asked.body,
                allow_redirects=False,
                **options,
            ) as response:
                headers = {name.lower(): value for name, value in response.headers.items()}
                self._learn(headers, budget, sent_ns)
                self._tell_time(headers)
                if response.status not in asked.ok_statuses:
                    raise self._refusal(url, response, headers, await self._read_refusal(response, url))
                body = await self._read(response, url, config.body_bytes_max)
        except (aiohttp.InvalidURL, aiohttp.ClientConnectorCertificateError) as error:
            raise TerminalError(f"{_named(asked.method, url)}: {told(error)}") from error
        except TimeoutError as error:
            raise TransientError(
                f"{_named(asked.method, url)}: no complete answer in time (connect {config.connect_timeout_s:g} s, "
                f"total {config.total_timeout_s:g} s)"
            ) from error
        except (aiohttp.ClientError, ssl.SSLError, OSError) as error:
            raise TransientError(f"{_named(asked.method, url)}: {told(error)}") from error
        elapsed_s = (self._clock.mono_ns() - began_ns) / _SECOND_NS
        _seconds.labels(url.authority.rpartition("@")[2]).observe(elapsed_s)
        return Reply(response.status, headers, body, _safe(url), self._clock.wall_ns(), elapsed_s)

    async def _read(self, response: aiohttp.ClientResponse, url: URL, limit: int, *, cut: bool = False) -> bytes:
        """The decoded body, at most ``limit`` bytes: beyond that it is cut off or refused."""
        received = 0
        parts: list[bytes] = []
        size = 0
        decoder = _decoder(response.headers.get("Content-Encoding", ""), _named(response.method, url))
        counted = _bytes.labels(url.authority.rpartition("@")[2])
        async for chunk in response.content.iter_any():
            received += len(chunk)
            counted.inc(len(chunk))
            for piece in decoder.feed(chunk):
                size += len(piece)
                parts.append(piece)
                if size > limit and cut:
                    response.close()
                    return b"".join(parts)[:limit]
                if size > limit or (size > _RATIO_FROM_BYTES and size > received * self._config.ratio_max):
                    response.close()
                    raise TerminalError(
                        f"{_named(response.method, url)}: the body is too large ({received} bytes received, over "
                        f"{size} decoded; allowed are {limit} and {self._config.ratio_max:g} times what was received)"
                    )
        if received and not decoder.complete and not cut:
            raise TransientError(f"{_named(response.method, url)}: the compressed body ends too early")
        return b"".join(parts)

    async def _read_refusal(self, response: aiohttp.ClientResponse, url: URL) -> str:
        """What a refusal says, as far as it can be read: its status counts even if its body is broken."""
        try:
            body = await self._read(response, url, _REFUSAL_BYTES, cut=True)
        except (aiohttp.ClientError, OSError, SourceError) as error:
            return f"(body unreadable: {type(error).__name__})"
        return body.decode("utf-8", "replace").strip()[:_REFUSAL_CHARS]

    def _refusal(
        self, url: URL, response: aiohttp.ClientResponse, headers: Mapping[str, str], text: str
    ) -> TransientError | TerminalError:
        """The error for a status that was not asked for."""
        status = response.status
        said = f"{_named(response.method, url)} answered {status}" + (f": {text}" if text else "")
        if status in (429, 418):
            wait_s = self._retry_after(headers)
            return RateLimited(f"{said} (asked to wait {wait_s:g} s)", wait_s)
        if status >= 500 or status == 408:
            return TransientError(said)
        if 300 <= status < 400:
            return TerminalError(f"{said}; it moved to {headers.get('location', 'nowhere')!r}, use that address")
        return TerminalError(said)

    def _retry_after(self, headers: Mapping[str, str]) -> float:
        """Seconds of a ``Retry-After`` header, which holds seconds or a date; the configured wait without one."""
        text = headers.get("retry-after", "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
            return float(text)
        try:
            at_s = parsedate_to_datetime(text).timestamp()
        except ValueError:
            return self._config.retry_after_s
        return max(0.0, at_s - self._clock.wall_ns() / _SECOND_NS)

    def _learn(self, headers: Mapping[str, str], budget: Budget, sent_ns: int) -> None:
        name = self._config.weight_header
        if name is not None and (text := headers.get(name.lower(), "")).isdecimal():
            budget.learn(int(text), sent_ns)

    def _tell_time(self, headers: Mapping[str, str]) -> None:
        """Take the time of an upstream with a clock of its own, where the product runs on it."""
        told_ns = headers.get(TIME_HEADER, "")
        if self._config.clock is not None and told_ns.isdecimal():
            speed = headers.get(SPEED_HEADER, "")
            self._config.clock.tell(int(told_ns), float(speed) if _SPEED.fullmatch(speed) else 0.0)

    def _backoff_s(self, attempt: int) -> float:
        config = self._config
        return self._rng.uniform(0.0, min(config.backoff_s_max, config.backoff_s * 2.0 ** min(attempt - 1, 30)))

    def _left_s(self, ends_ns: int) -> float:
        return max(0.0, (ends_ns - self._clock.mono_ns()) / _SECOND_NS)

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise TransientError("the HTTP client is closed")
        if self._session is None:
            config = self._config
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit_per_host=config.connections_per_host),
                timeout=aiohttp.ClientTimeout(total=config.total_timeout_s, sock_connect=config.connect_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": config.user_agent, "Accept-Encoding": "gzip, deflate"},
                # Bodies are decoded here, in bounded steps, so that a bomb is seen before it fills the memory.
                auto_decompress=False,
            )
        return self._session

    def _proxy_for(self, url: URL) -> tuple[dict[str, Any], dict[str, str]]:
        """What aiohttp is told about the proxy, and the header that goes with the request itself."""
        proxy = self._config.proxy or env_proxy(url, self._config.trust_env)
        if proxy is None:
            return {}, {}
        at = URL(proxy)
        if at.user is None:
            return {"proxy": at}, {}
        login = {"Proxy-Authorization": aiohttp.encode_basic_auth(at.user, at.password or "")}
        # Through a tunnel only the proxy may see the login; without one the request itself carries it.
        if url.scheme == "https":
            return {"proxy": at.with_user(None), "proxy_headers": login}, {}
        return {"proxy": at.with_user(None)}, login


def env_proxy(url: URL, trust_env: bool) -> str | None:
    """The proxy that the environment names for this URL; ``None`` for loopback hosts and where there is none."""
    host = url.host or ""
    if not trust_env or _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    scheme = {"ws": "http", "wss": "https"}.get(url.scheme, url.scheme)
    return urllib.request.getproxies().get(scheme)


class _Plain:
    """A body that is not compressed."""

    complete = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The decoded pieces of one received chunk."""
        yield chunk


class _Inflate:
    """gzip (of one member or several), zlib, or the bare deflate that some servers send under the same name."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._begun = False
        self._held = b""
        self.complete = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The decoded pieces of one received chunk, each of bounded size."""
        data = self._held + chunk
        self._held = b""
        while True:
            if self._inflater.eof:
                if not _GZIP_MAGIC.startswith(data[:2]):
                    return
                if len(data) < 2:
                    self._held = data
                    return
                self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
                self.complete = False
            piece = self._inflate(data)
            if piece:
                yield piece
            if self._inflater.eof:
                self.complete = True
                data = self._inflater.unused_data
                continue
            data = self._inflater.unconsumed_tail
            if not data and len(piece) < _INFLATE_STEP_BYTES:
                return

    def _inflate(self, data: bytes) -> bytes:
        try:
            piece = self._inflater.decompress(data, _INFLATE_STEP_BYTES)
        except zlib.error as error:
            if self._begun:
                raise TransientError(f"{self._where}: the compressed body is damaged ({error})") from error
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            self._begun = True
            return self._inflate(data)
        self._begun = True
        return piece


def _decoder(encoding: str, where: str) -> _Plain | _Inflate:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return _Plain()
    if name in ("gzip", "x-gzip", "deflate"):
        return _Inflate(where)
    raise TerminalError(f"{where}: the body is encoded as {encoding!r}; asked for were gzip and deflate")


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


def _named(method: str, url: URL) -> str:
    """How a request is named in messages: without its query, which may hold keys."""
    return f"{method} {url.with_query(None).with_user(None)}"


def _safe(url: URL) -> str:
    return safe_text(str(url))


def safe_text(text: str) -> str:
    """Text with the secrets of any URL in it replaced."""
    shown = telemetry.redact(None, "", {"text": text})
    return _USERINFO.sub("//***@", cast("str", shown["text"]))


def told(error: Exception) -> str:
    """What an error of a network library says, fit for logs and messages."""
    return safe_text(f"{type(error).__name__}: {error}")


def websocket_url(url: str) -> URL:
    """A WebSocket's URL; `InputError` for anything else."""
    found = URL(url)
    if found.scheme not in ("ws", "wss") or not found.host:
        raise InputError(f"{safe_text(url)!r} is not usable: write ws:// or wss:// and a host.")
    return found
