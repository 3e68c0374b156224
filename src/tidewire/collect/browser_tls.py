"""A client that speaks TLS and HTTP/2 as a browser does, for sites that look at how they are spoken to.

Needs the extra ``tls`` (curl_cffi). User agent, client hints and the order of headers are those of the browser whose
TLS it is; of an identity only the kind of browser and the language count.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, cast

from curl_cffi.requests import AsyncSession, Response
from curl_cffi.requests.exceptions import (
    CertificateVerifyError,
    InvalidProxyURL,
    InvalidURL,
    RequestException,
    Timeout,
)

from tidewire.collect.masked import named, told
from tidewire.collect.transport import Incoming, Outgoing, Patience
from tidewire.errors import TerminalError, TransientError

CLIENTS_MAX = 32
DEFAULT = "chrome"
_LANGUAGE = "Accept-Language"


class _Answer:
    """An answer of curl, which unpacks bodies itself."""

    encoding = ""

    def __init__(self, response: Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = {name.lower(): value or "" for name, value in response.headers.items()}

    def chunks(self) -> AsyncIterator[bytes]:
        return cast("AsyncIterator[bytes]", self._response.aiter_content())

    def close(self) -> None:
        """Leaving the block closes it."""


class TlsTransport:
    """curl_cffi, without cookies or redirects."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._session: AsyncSession[Response] | None = None

    @asynccontextmanager
    async def ask(self, out: Outgoing) -> AsyncGenerator[Incoming]:
        """Send it."""
        patience = self._patience
        language = {_LANGUAGE: out.browser[_LANGUAGE]} if _LANGUAGE in out.browser else {}
        options: dict[str, Any] = {"impersonate": out.identity.tls if out.identity is not None else DEFAULT}
        try:
            async with (
                asyncio.timeout(patience.total_s),
                self._opened().stream(
                    cast("Literal['GET']", out.method),
                    str(out.url),
                    headers={**language, **out.headers},
                    data=out.body,
                    timeout=(patience.connect_s, patience.total_s),
                    proxy=out.proxy,
                    allow_redirects=False,
                    **options,
                ) as response,
            ):
                yield _Answer(response)
        except (InvalidURL, InvalidProxyURL, CertificateVerifyError) as error:
            raise TerminalError(f"{named(out.method, out.url)}: {told(error)}") from None
        except (TimeoutError, Timeout) as error:
            raise patience.late(out.method, out.url) from error
        except (RequestException, OSError) as error:
            raise TransientError(f"{named(out.method, out.url)}: {told(error)}") from None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> AsyncSession[Response]:
        if self._session is None:
            self._session = AsyncSession(max_clients=CLIENTS_MAX, trust_env=False, discard_cookies=True)
        return self._session
