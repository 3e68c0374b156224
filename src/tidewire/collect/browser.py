"""A real browser as a client, for pages that come to be by scripts. Needs the extra ``browser`` (playwright).

One browser serves all sources of a platform: it is started with the first request and closed with the last client.
Each request has a context of its own (no cookies of others, its own proxy) and one page; how many pages there are at
once is bounded. What the page loads for the eye (pictures, fonts, films) is not loaded.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from yarl import URL

from tidewire import telemetry
from tidewire.collect.masked import named, safe_text
from tidewire.errors import TerminalError, TransientError

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium
    from playwright.async_api import BrowserContext, Page, Playwright, Response, Route

    from tidewire.collect.transport import Incoming, Outgoing, Patience

PAGES = 2
LOCALE = "zh-CN"
START_S = 30.0
# Where an error of the browser names the whole address, whose query may hold keys.
_AT = re.compile(r" at \S+")

FOR_THE_EYE = frozenset({"image", "media", "font"})

_log = telemetry.log("collect")


class Browser:
    """The one browser of a platform. ``executable`` is empty for the one that playwright installs."""

    def __init__(self, executable: str = "", pages: int = PAGES) -> None:
        self._executable = executable
        self._turns = asyncio.Semaphore(pages)
        self._starting = asyncio.Lock()
        self._users = 0
        self._playwright: Playwright | None = None
        self._chromium: Chromium | None = None

    def join(self) -> None:
        """Somebody may need it."""
        self._users += 1

    async def leave(self) -> None:
        """Somebody needs it no more; the last one closes it."""
        self._users -= 1
        if self._users <= 0:
            await self._close()

    @asynccontextmanager
    async def page(self, proxy: str | None, url: URL, headers: Mapping[str, str]) -> AsyncGenerator[Page]:
        """A page of its own, when there is room for it; ``headers`` go to the site of this address and to no other."""
        async with self._turns:
            chromium = await self.started()
            context = await chromium.new_context(locale=LOCALE, **_proxied(proxy))
            try:
                await context.route("**/*", _Routes(url, headers).take)
                yield await context.new_page()
            finally:
                await _closed(context)

    async def started(self) -> Chromium:
        """Start it if it does not run."""
        from playwright.async_api import async_playwright

        async with self._starting:
            if self._chromium is None or not self._chromium.is_connected():
                await self._close()
                self._playwright = await async_playwright().start()
                self._chromium = await self._playwright.chromium.launch(
                    executable_path=self._executable or None,
                    timeout=START_S * 1e3,
                    # The process has its own way to end.
                    handle_sigint=False,
                    handle_sigterm=False,
                    handle_sighup=False,
                )
                _log.info("browser started", version=self._chromium.version)
            return self._chromium

    async def _close(self) -> None:
        chromium, self._chromium = self._chromium, None
        playwright, self._playwright = self._playwright, None
        if chromium is not None:
            await _closed(chromium)
        if playwright is not None:
            await playwright.stop()


class _Answer:
    """What a page came to."""

    encoding = ""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body

    def close(self) -> None:
        """Nothing is open."""


class BrowserTransport:
    """Opens the address as a person would.

    The answer is the first response whose address has ``wanted`` in it; without that, a page of HTML as it stands
    after it was loaded, scripts and all, or the body of anything else.
    """

    def __init__(self, patience: Patience, browser: Browser) -> None:
        self._patience = patience
        self._browser = browser
        browser.join()

    @asynccontextmanager
    async def ask(self, out: Outgoing) -> AsyncGenerator[Incoming]:
        """Open it, and wait for what is wanted."""
        from playwright.async_api import Error
        from playwright.async_api import TimeoutError as TooLate

        if out.method != "GET":
            raise TerminalError(f"{named(out.method, out.url)}: a browser opens addresses, it does not {out.method}")
        try:
            await self._browser.started()  # which may take longer than a request
            async with (
                asyncio.timeout(self._patience.total_s),
                self._browser.page(out.proxy, out.url, out.headers) as page,
            ):
                answer = await self._opened(page, out)
        except (TimeoutError, TooLate) as error:
            raise self._patience.late(out.method, out.url) from error
        except Error as error:
            why = safe_text(_AT.sub("", error.message.partition("\n")[0]))
            raise TransientError(f"{named(out.method, out.url)}: {why}") from None
        yield answer

    async def close(self) -> None:
        """Leave the browser to the others."""
        await self._browser.leave()

    async def _opened(self, page: Page, out: Outgoing) -> _Answer:
        limit_ms = self._patience.total_s * 1e3
        # The browser takes this header from nobody else.
        referer = next((text for name, text in out.headers.items() if name.lower() == "referer"), None)
        if not out.wanted:
            response = await page.goto(str(out.url), timeout=limit_ms, wait_until="load", referer=referer)
            if response is None:
                raise TransientError(f"{named(out.method, out.url)}: the browser has no answer")
            return await _taken(response, page)
        async with page.expect_response(lambda response: out.wanted in response.url, timeout=limit_ms) as coming:
            await page.goto(str(out.url), timeout=limit_ms, wait_until="commit", referer=referer)
        return await _taken(await coming.value, None)


async def _taken(response: Response, page: Page | None) -> _Answer:
    """A response; where a page is given, and it is HTML, what became of it."""
    headers = await response.all_headers()
    if page is not None and headers.get("content-type", "").startswith("text/html"):
        return _Answer(response.status, headers, (await page.content()).encode())
    return _Answer(response.status, headers, await response.body())


class _Routes:
    """What becomes of each request of a page."""

    def __init__(self, url: URL, headers: Mapping[str, str]) -> None:
        self._origin = url.origin()
        self._headers = {name.lower(): text for name, text in headers.items()}

    async def take(self, route: Route) -> None:
        """Load nothing that only the eye needs, and tell keys to nobody but the site they are meant for."""
        asked = route.request
        if asked.resource_type in FOR_THE_EYE:
            await route.abort()
        elif self._headers and URL(asked.url).origin() == self._origin:
            await route.continue_(headers={**asked.headers, **self._headers})
        else:
            await route.continue_()


async def _closed(what: BrowserContext | Chromium) -> None:
    from playwright.async_api import Error

    try:
        await what.close()
    except Error as error:
        _log.info("browser was gone already", error=safe_text(error.message.partition("\n")[0]))


def _proxied(proxy: str | None) -> dict[str, Any]:
    if proxy is None:
        return {}
    at = URL(proxy)
    login = {} if at.user is None else {"username": at.user, "password": at.password or ""}
    return {"proxy": {"server": str(at.with_user(None).origin()), **login}}
