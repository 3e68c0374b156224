"""Browsers to pass for: sets of headers that belong together, and who wears which one for how long.

A site that sees a Chrome of one system with the hints of another knows that it is no Chrome. So an identity is taken as
a whole, kept for a while by all requests of a family of sites over one proxy, as a person's browser would be, and
changed when the site refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tidewire.records.clock import Clock, Rng

KEEP_S = 3600.0
WORN_MAX = 4_096
"""Of more families and proxies the oldest is forgotten; it is dressed anew."""
_SECOND_NS = 1_000_000_000

_LANGUAGE = "zh-CN,zh;q=0.9,en;q=0.8"
_CHROME_PAGE = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7"
)
_OTHER_PAGE = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
_WIN = "Mozilla/5.0 (Windows NT 10.0; Win64; x64)"
_MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)"
_WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"


@dataclass(frozen=True)
class Identity:
    """One browser. ``headers`` go with every request, ``page`` is its ``Accept`` for a page that a person opens.

    ``tls`` names the same browser for clients that speak TLS as it does: chrome, firefox or safari.
    """

    name: str
    headers: Mapping[str, str]
    page: str = ""
    tls: str = "chrome"

    def dressed(self, *, page: bool) -> dict[str, str]:
        """The headers of a request for a page, or for data that a page asks for."""
        if not self.page:
            return dict(self.headers)
        accept = {"Accept": self.page if page else "*/*"}
        fetch = ("document", "navigate", "none") if page else ("empty", "cors", "same-site")
        names = ("Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site")
        return {**self.headers, **accept, **dict(zip(names, fetch, strict=True))}


def _chromium(name: str, agent: str, brands: str, platform: str) -> Identity:
    hints = {"sec-ch-ua": brands, "sec-ch-ua-mobile": "?0", "sec-ch-ua-platform": f'"{platform}"'}
    return Identity(name, {**hints, "User-Agent": agent, "Accept-Language": _LANGUAGE}, _CHROME_PAGE)


BROWSERS: tuple[Identity, ...] = (
    _chromium(
        "chrome-windows",
        f"{_WIN} {_WEBKIT} Chrome/152.0.0.0 Safari/537.36",
        '"Chromium";v="152", "Not?A_Brand";v="24", "Google Chrome";v="152"',
        "Windows",
    ),
    _chromium(
        "chrome-macos",
        f"{_MAC} {_WEBKIT} Chrome/151.0.0.0 Safari/537.36",
        '"Not=A?Brand";v="99", "Google Chrome";v="151", "Chromium";v="151"',
        "macOS",
    ),
    _chromium(
        "edge-windows",
        f"{_WIN} {_WEBKIT} Chrome/152.0.0.0 Safari/537.36 Edg/152.0.0.0",
        '"Chromium";v="152", "Not?A_Brand";v="24", "Microsoft Edge";v="152"',
        "Windows",
    ),
    Identity(
        "firefox-windows",
        {
            "User-Agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:155.0) Gecko/20100101 Firefox/155.0",
            "Accept-Language": "zh-CN,zh;q=0.9,en-US;q=0.6,en;q=0.5",
        },
        _OTHER_PAGE,
        "firefox",
    ),
    Identity(
        "safari-macos",
        {
            "User-Agent": f"{_MAC} AppleWebKit/605.1.15 (KHTML, like Gecko) Version/27.0 Safari/605.1.15",
            "Accept-Language": "zh-CN,zh-Hans;q=0.9",
        },
        _OTHER_PAGE,
        "safari",
    ),
)
"""What people in front of the sites of the mainland use; the versions are those of one month."""


@dataclass
class _Worn:
    identity: Identity
    until_ns: int


@dataclass
class Identities:
    """Which identity is worn where. With nothing to choose from nobody passes for anything."""

    choice: Sequence[Identity] = BROWSERS
    keep_s: float = KEEP_S
    _worn: dict[tuple[str, str], _Worn] = field(default_factory=dict[tuple[str, str], _Worn])

    def worn(self, family: str, proxy: str, clock: Clock, rng: Rng) -> Identity | None:
        """The identity at a family of sites behind a proxy: the same one for half to all of ``keep_s``."""
        now_ns = clock.mono_ns()
        found = self._worn.get((family, proxy))
        if found is None or now_ns >= found.until_ns:
            return self.change(family, proxy, clock, rng)
        return found.identity

    def change(self, family: str, proxy: str, clock: Clock, rng: Rng) -> Identity | None:
        """Take another identity there, as far as there is one."""
        if not self.choice:
            return None
        before = self._worn.get((family, proxy))
        others = [each for each in self.choice if before is None or each != before.identity] or list(self.choice)
        taken = others[min(len(others) - 1, int(rng.uniform(0.0, len(others))))]
        keep_ns = round(rng.uniform(self.keep_s / 2, self.keep_s) * _SECOND_NS)
        while len(self._worn) >= WORN_MAX:
            del self._worn[next(iter(self._worn))]
        self._worn[family, proxy] = _Worn(taken, clock.mono_ns() + keep_ns)
        return taken


def own(headers: Sequence[Mapping[str, str]]) -> list[Identity]:
    """Identities that a configuration lists, each as its headers; sent as they are."""
    return [Identity(f"own-{place}", dict(each), tls=_kind(each)) for place, each in enumerate(headers, 1)]


def _kind(headers: Mapping[str, str]) -> str:
    agent = next((text for name, text in headers.items() if name.lower() == "user-agent"), "")
    if "Firefox/" in agent:
        return "firefox"
    return "safari" if "Safari/" in agent and "Chrome/" not in agent else "chrome"
