"""Windows of time, one after the other: what a file with ``since`` asks for next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from tidewire.collect import DAY_US, seconds
from tidewire.collect.schedule import zone
from tidewire.errors import ConfigError, InputError
from tidewire.sources.declared.grammar import Since
from tidewire.sources.declared.times import micros_of

SLACK_US = DAY_US
"""Sites take whole days, each in its own time zone: rows so far outside a window are no sign that it is ignored."""


class Span(NamedTuple):
    """[``since``, ``until``), UTC microseconds."""

    since: int
    until: int


@dataclass(frozen=True)
class Windows:
    """The windows of a file. ``ago``: ``start_us`` is so long before now, not a moment."""

    start_us: int
    ago: bool
    step_us: int | None
    lookback_us: int

    def next(self, whole_until: int | None, now_us: int, *, newest: bool) -> Span:
        """The window after what is whole up to ``whole_until``; ``newest``: a round begins, so it looks back."""
        begin = whole_until
        if begin is None:
            begin = min(now_us, now_us - self.start_us if self.ago else self.start_us)
        until = now_us if self.step_us is None else min(begin + self.step_us, now_us)
        looks_back = newest and whole_until is not None
        # A clock that was set back must not make a window that ends before it begins.
        return Span(begin - self.lookback_us if looks_back else begin, max(begin, until))

    def newest(self, now_us: int) -> Span:
        """The window that ends now, for whoever only wants to see."""
        begin = now_us - self.start_us if self.ago else self.start_us
        return Span(max(begin, now_us - (self.step_us or now_us)), now_us)


def windows_of(since: Since, where: str) -> Windows:
    """The windows a file means; `ConfigError` names the key."""
    try:
        at = zone(since.tz)
    except InputError as error:
        raise ConfigError(f"{where}: since.tz: {error}") from None
    ago = False
    try:
        start_us = micros_of(datetime.fromisoformat(since.start), at)
    except ValueError:
        try:
            start_us, ago = _micros(since.start, ""), True
        except ConfigError:
            raise ConfigError(
                f"{where}: since.start: {since.start!r} is no date and no duration; write 2020-01-01, or 30d for so "
                "long ago."
            ) from None
    step_us = _micros(since.step, f"{where}: since.step") if since.step else None
    lookback_us = _micros(since.lookback, f"{where}: since.lookback") if since.lookback else 0
    return Windows(start_us, ago, step_us, lookback_us)


def moment(text: object, since: Since | None) -> int:
    """A date or time as people write it (or UTC microseconds), in UTC microseconds; `ValueError` for anything else."""
    if isinstance(text, int):
        return text
    return micros_of(datetime.fromisoformat(str(text)), zone(Since(start="").tz if since is None else since.tz))


def _micros(text: str, where: str) -> int:
    return round(seconds(text, where) * 1e6)
