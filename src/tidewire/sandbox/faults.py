"""Faults on purpose: what happens to each message and to REST answers."""

from __future__ import annotations

import re
from collections.abc import Callable

from tidewire.records.clock import Clock, SeededRng
from tidewire.sandbox.config import Faults

Message = tuple[str, int, bytes, int]
"""Stream, id, JSON, market time in ns."""

_TIME = re.compile(rb'("[ET]":|"ts":")(\d{13})')
_MICRO = re.compile(rb'"([ETtOC])":(\d{13})(?=[,}])')


def shift_times(data: bytes, shift_ms: int) -> bytes:
    """Move event and trade time; the ``T`` of a bar or a mark price is no reading of a clock, and stays."""
    only_first = 1 if b'"e":"kline"' in data or b'"e":"markPriceUpdate"' in data else 0
    return _TIME.sub(lambda at: b"%s%d" % (at[1], int(at[2]) + shift_ms), data, count=only_first)


def in_microseconds(data: bytes) -> bytes:
    """Times as the venue gives them with ``timeUnit=MICROSECOND``."""
    is_kline = b'"e":"kline"' in data
    return _MICRO.sub(lambda at: b'"%s":%s%s' % (at[1], at[2], b"999" if is_kline and at[1] == b"T" else b"000"), data)


class LedgerEntry:
    """What became of the messages of one stream.

    ``sent`` counts messages put to at least one connection, repetitions included; ``duplicated`` of them were those.
    """

    KEPT = 10_000

    def __init__(self) -> None:
        self.sent = self.dropped = self.duplicated = self.reordered = self.silenced = 0
        self.first_id: int | None = None
        self.last_id: int | None = None
        self.dropped_ids: list[int] = []

    def drop(self, ident: int) -> None:
        """Count a message that is kept back; the first ten thousand ids are remembered."""
        self.dropped += 1
        if len(self.dropped_ids) < self.KEPT:
            self.dropped_ids.append(ident)

    def facts(self) -> dict[str, object]:
        """For ``GET /sandbox/ledger``."""
        return dict(vars(self))


class FaultInjector:
    """Decides, from a seed, what happens to each message."""

    def __init__(self, faults: Faults, clock: Clock, ledger: Callable[[str], LedgerEntry]) -> None:
        self._clock = clock
        self._ledger = ledger
        self._held: dict[str, Message] = {}
        self.set(faults)

    def set(self, faults: Faults) -> None:
        """New switches; the dice start again from the seed, a silence and an absence from now."""
        self.faults = faults
        self._rng = SeededRng(f"faults:{faults.seed}")
        self._set_ns = self._clock.mono_ns()
        self._rest_left = faults.fail_rest.times if faults.fail_rest else 0
        self.touches = bool(faults.drop or faults.duplicate or faults.reorder or faults.silence_s or self._held)
        self.skew_ms = round(faults.skew_s * 1_000)

    @property
    def silent(self) -> bool:
        """Whether nothing at all may be sent to WebSocket clients."""
        return self._lasts(self.faults.silence_s)

    @property
    def away(self) -> bool:
        """Whether nobody can reach the venue."""
        return self._lasts(self.faults.away_s)

    def _lasts(self, seconds: float) -> bool:
        return seconds < 0 or (seconds > 0 and self._clock.mono_ns() - self._set_ns < seconds * 1e9)

    def rest_failure(self) -> int | None:
        """The status that the next REST request must fail with, if any."""
        failure = self.faults.fail_rest
        if failure is None or self._rest_left == 0:
            return None
        self._rest_left -= 1
        return failure.status

    def judge(self, message: Message) -> list[Message]:
        """What goes out now because of this message, in order; counts drops and repetitions in the ledger."""
        stream, ident = message[0], message[1]
        entry = self._ledger(stream)
        if self.silent:
            entry.silenced += 1
            return []
        faults = self.faults
        if faults.only and not stream.endswith(faults.only):
            return [message]
        if faults.drop and self._rng.uniform(0.0, 1.0) < faults.drop:
            entry.drop(ident)
            return []
        held = self._held.pop(stream, None)
        if held is None and faults.reorder and self._rng.uniform(0.0, 1.0) < faults.reorder:
            self._held[stream] = message
            entry.reordered += 1
            return []
        out = [message]
        if faults.duplicate and self._rng.uniform(0.0, 1.0) < faults.duplicate:
            entry.duplicated += 1
            out.append(message)
        if held is not None:
            out.append(held)
        return out

    def release(self) -> list[Message]:
        """Messages still held back for reordering."""
        held, self._held = list(self._held.values()), {}
        return held
