"""How one request goes over the wire: the interface of all clients, and the plain one.

Budgets, retries, limits of size and what is made of a status belong to `tidewire.collect.http`; a transport sends one
request by one way and hands over what comes.
"""

from __future__ import annotations

import importlib.util
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
from yarl import URL

from tidewire.collect.identity import Identity
from tidewire.collect.masked import named, told
from tidewire.errors import ConfigError, TerminalError, TransientError

if TYPE_CHECKING:
    from tidewire.collect.browser import Browser

HTTP, BROWSER_TLS, BROWSER = "http", "browser_tls", "browser"
NEEDS = {BROWSER_TLS: ("curl_cffi", "tls"), BROWSER: ("playwright", "browser")}
"""Which package a client needs, and the extra that installs it."""
SCHEMES = {
    HTTP: frozenset({"http", "https"}),
    BROWSER_TLS: frozenset({"http", "https", "socks5", "socks5h"}),
    BROWSER: frozenset({"http", "https", "socks5"}),
}
"""Over which proxies each client goes."""


@dataclass(frozen=True)
class Patience:
    """How long one attempt may take, and how many connections to a host are kept."""

    connect_s: float = 5.0
    total_s: float = 30.0
    connections: int = 8

    def late(self, method: str, url: URL) -> TransientError:
        """No answer in this time."""
        return TransientError(
            f"{named(method, url)}: no complete answer in time (connect {self.connect_s:g} s, total {self.total_s:g} s)"
        )


@dataclass(frozen=True)
class Outgoing:
    """One request as it goes out.

    ``headers`` are those of whoever asks, ``browser`` those of who we pass for; where both have one the first counts.
    ``proxy`` may hold a login; ``wanted``: see `tidewire.collect.http.Request`.
    """

    method: str
    url: URL
    headers: Mapping[str, str] = field(repr=False)
    browser: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    identity: Identity | None = None
    wanted: str = ""


class Incoming(Protocol):
    """An answer whose body has not been read. ``headers`` have lower-case names; chunks are packed by ``encoding``."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def encoding(self) -> str: ...
    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        ...

    def close(self) -> None:
        """Nobody wants the rest."""
        ...


class Transport(Protocol):
    """Sends requests; errors are `TransientError` and `TerminalError`, and hold no secrets."""

    def ask(self, out: Outgoing) -> AbstractAsyncContextManager[Incoming]:
        """Send it; the answer is good until the block is left."""
        ...

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        ...


def client_schemes(client: str) -> frozenset[str]:
    """Over which kinds of proxy a client goes."""
    return SCHEMES[client]


Opener = Callable[[Patience], Transport]


def opener(client: str, browser: Browser | None = None) -> Opener:
    """What makes the transport of a client: ``http``, ``browser_tls`` or ``browser``.

    Raises:
        ConfigError: its package is not installed; says how to install it.
    """
    check_client(client)
    if client == BROWSER_TLS:
        from tidewire.collect.browser_tls import TlsTransport

        return TlsTransport
    if client == BROWSER and browser is not None:
        from tidewire.collect.browser import BrowserTransport

        shared = browser
        return lambda patience: BrowserTransport(patience, shared)
    return PlainTransport


def check_client(client: str) -> None:
    """`ConfigError` for a client that is not there."""
    if client in NEEDS:
        package, extra = NEEDS[client]
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"client: {client} needs {package}. Install it: pip install 'tidewire[{extra}]'.")


class _PlainAnswer:
    """An answer of aiohttp."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self.encoding = response.headers.get("Content-Encoding", "")

    def chunks(self) -> AsyncIterator[bytes]:
        return self._response.content.iter_any()

    def close(self) -> None:
        self._response.close()


class _Line:
    """The connection that a request got, and what aiohttp may do when it breaks.

    aiohttp asks again at once when a connection breaks before the answer. Where the connection was an old one, that is
    the ordinary race with a server that closed it; where it was new, the site hung up on us, and asking again at once
    is what it must not see.
    """

    def __init__(self) -> None:
        self.reused = False

    async def once(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        """A middleware of aiohttp, called for each of its tries."""
        self.reused = False
        try:
            return await handler(request)
        except aiohttp.ClientConnectorCertificateError as error:
            raise TerminalError(f"{named(request.method, request.url)}: {told(error)}") from error
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            if self.reused:
                raise
            raise TransientError(f"{named(request.method, request.url)}: {told(error)}") from error


async def _reused(_session: aiohttp.ClientSession, context: Any, _what: aiohttp.TraceConnectionReuseconnParams) -> None:
    context.trace_request_ctx.reused = True


class PlainTransport:
    """aiohttp, without cookies, redirects or its own unpacking."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def ask(self, out: Outgoing) -> AsyncGenerator[Incoming]:
        """Send it."""
        options, login = _proxy(out)
        line = _Line()
        asked = {name.lower() for name in out.headers}
        browser = {name: text for name, text in out.browser.items() if name.lower() not in asked}
        try:
            async with self._opened().request(
                out.method,
                out.url,
                headers={**browser, **out.headers, **login},
                data=out.body,
                allow_redirects=False,
                trace_request_ctx=line,
                middlewares=(line.once,),
                **options,
            ) as response:
                yield _PlainAnswer(response)
        except aiohttp.InvalidURL as error:
            raise TerminalError(f"{named(out.method, out.url)}: {told(error)}") from error
        except TimeoutError as error:
            raise self._patience.late(out.method, out.url) from error
        except (aiohttp.ClientError, ssl.SSLError, OSError) as error:
            raise TransientError(f"{named(out.method, out.url)}: {told(error)}") from error

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            patience = self._patience
            traced = aiohttp.TraceConfig()
            traced.on_connection_reuseconn.append(_reused)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit_per_host=patience.connections),
                timeout=aiohttp.ClientTimeout(total=patience.total_s, sock_connect=patience.connect_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[traced],
                headers={"Accept-Encoding": "gzip, deflate"},
                # The client unpacks bodies, in bounded steps, so that a bomb is seen before it fills the memory.
                auto_decompress=False,
            )
        return self._session


def _proxy(out: Outgoing) -> tuple[dict[str, Any], dict[str, str]]:
    """What aiohttp is told about the proxy, and the header that goes with the request itself."""
    if out.proxy is None:
        return {}, {}
    at = URL(out.proxy)
    if at.user is None:
        return {"proxy": at}, {}
    login = {"Proxy-Authorization": aiohttp.encode_basic_auth(at.user, at.password or "")}
    # Through a tunnel only the proxy may see the login; without one the request itself carries it.
    if out.url.scheme == "https":
        return {"proxy": at.with_user(None), "proxy_headers": login}, {}
    return {"proxy": at.with_user(None)}, login
