"""The request budget of one host: nobody sends more than the host allows, and everybody waits in one line.

Two limits hold together: requests per second with a burst, and the weight the host counts per minute. The host's own
count, read from a response header, corrects ours; a 429 or 418 stops everyone until the host's time is over. Where it
is said, only so many requests are under way at once, and the time between two of them is drawn anew each time.

What can wait (filling gaps, loading history) is asked in the background: it stands behind everything live and leaves a
part of the minute's weight alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from tidewire import telemetry
from tidewire.collect.timer import within
from tidewire.errors import InputError, RateLimited, TransientError
from tidewire.records.clock import Clock, Rng

_SECOND_NS = 1_000_000_000
_MINUTE_NS = 60 * _SECOND_NS

# Longer than any request waits: only an answer to another one makes room.
_FULL_NS = 1 << 62

# The longest ban a host is known to give is three days; a header that asks for more is a mistake.
_PAUSE_S_MAX = 3 * 86400.0

_used = telemetry.gauge("collect_budget_used_weight", "Weight used in the running minute", ("host",))
_waiting = telemetry.gauge("collect_budget_waiting_requests", "Requests waiting for their turn", ("host",))
_paused = telemetry.counter("collect_budget_paused_seconds", "Time a host asked everyone to stay away", ("host",))


@dataclass(frozen=True)
class Limits:
    """What a host allows. ``weight_per_minute`` is ``None`` where the host counts no weights.

    ``waiting_max`` bounds the line: one request more and it fails with `TransientError`. ``background_share`` is how
    much of a minute's weight may be used up when a background request goes out. ``at_once``: how many may be under way,
    for whoever tells with `Budget.done` that one is over; ``jitter``: by up to this share the time to the next request
    is longer than it need be.
    """

    requests_per_second: float = 20.0
    burst: int = 50
    weight_per_minute: int | None = None
    waiting_max: int = 1000
    background_share: float = 0.5
    at_once: int | None = None
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("requests_per_second", "burst", "weight_per_minute", "waiting_max", "background_share", "at_once"):
            found = getattr(self, name)
            if found is not None and not 0 < found < float("inf"):
                raise InputError(f"{name} is {found!r}: it must be above zero.")
        if self.burst < 1:
            raise InputError(f"burst is {self.burst!r}: at least one request must be allowed.")
        if not 0 <= self.jitter <= 1:
            raise InputError(f"jitter is {self.jitter!r}: valid are 0 to 1.")


@dataclass(frozen=True)
class BudgetStatus:
    """What a budget looks like now; ``paused_until_ns`` is UTC nanoseconds, ``None`` when nothing holds it."""

    host: str
    used_weight: int
    waiting: int
    paused_until_ns: int | None


class _Turn:
    """One place in the line; ``look`` is set when it should look at its chances again."""

    __slots__ = ("background", "granted", "look", "weight")

    def __init__(self, weight: int, *, background: bool) -> None:
        self.weight = weight
        self.background = background
        self.granted = False
        self.look = asyncio.Event()


class Budget:
    """First come, first served, within `Limits`; background requests after all others.

    Waiting is bounded twice: by ``waiting_max`` and by each caller's own time-out.
    """

    def __init__(self, clock: Clock, config: Limits | None = None, host: str = "", rng: Rng | None = None) -> None:
        self._clock = clock
        self._rng = rng
        self._config = config or Limits()
        self._most = self._config.weight_per_minute
        self._host = host
        # The line is a GCRA in whole nanoseconds: `_tat_ns` is when the bucket will be full again.
        self._emission_ns = 0
        self._depth_ns = 0
        self._tat_ns = 0
        self._minute = 0
        self._minute_ends_ns = 0
        self._used = 0
        self._paused_ns = 0
        self._under_way = 0
        self._waiting: deque[_Turn] = deque()
        self.limit(self._config)

    def limit(self, config: Limits) -> None:
        """Other requests per second, another burst, and how many at once, from now on."""
        self._config = config
        self._emission_ns = max(1, round(_SECOND_NS / config.requests_per_second))
        self._depth_ns = (config.burst - 1) * self._emission_ns
        for turn in self._waiting:
            turn.look.set()

    @property
    def status(self) -> BudgetStatus:
        """What the budget looks like now."""
        return BudgetStatus(self._host, self.used_weight, self.waiting, self.paused_until_ns)

    @property
    def used_weight(self) -> int:
        """Weight used in the running minute, by our count or the host's, whichever is higher."""
        self._turn_minute()
        return self._used

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._waiting)

    @property
    def paused_s(self) -> float:
        """Seconds until the host may be asked again; 0 when nothing holds it."""
        return max(0, self._paused_ns - self._clock.mono_ns()) / _SECOND_NS

    @property
    def paused_until_ns(self) -> int | None:
        """When the host may be asked again, UTC nanoseconds; ``None`` when nothing holds it."""
        left_ns = self._paused_ns - self._clock.mono_ns()
        return self._clock.wall_ns() + left_ns if left_ns > 0 else None

    async def spend(self, weight: int = 1, timeout_s: float = 60.0, *, background: bool = False) -> None:
        """Wait for the turn of a request of that weight, then count it.

        A ``background`` request waits behind all others, and until enough of the minute's weight is left for them.

        Raises `RateLimited` at once when the host is paused for longer than ``timeout_s``, `TransientError` when
        the turn does not come in time or the line is full, `InputError` for a weight that no minute can hold.
        """
        limit = self._most
        if weight < 0 or (limit is not None and weight > limit):
            raise InputError(f"a request of weight {weight} to {self._host or 'the host'}: valid are 0 to {limit}.")
        turn = _Turn(weight, background=background)
        if not self._waiting and self._due_ns(turn) <= 0:
            self._take(weight)
            return
        if len(self._waiting) >= self._config.waiting_max:
            raise TransientError(
                f"{self._config.waiting_max} requests already wait for {self._host or 'the host'}: ask less often, "
                "or raise its rate_limit if the host allows more."
            )
        self._join(turn)
        _waiting.labels(self._host).set(len(self._waiting))
        try:
            await self._wait(turn, self._clock.mono_ns() + round(timeout_s * _SECOND_NS))
        except BaseException:
            if turn.granted:  # cancelled on its way out: nobody will say that it is done
                self._under_way -= 1
            raise
        finally:
            if not turn.granted:
                self._waiting.remove(turn)
            self._grant()
            _waiting.labels(self._host).set(len(self._waiting))

    def done(self) -> None:
        """A request that had its turn is over, whatever came of it."""
        self._under_way -= 1
        self._grant()

    def learn(self, used_weight: int, sent_ns: int | None = None) -> None:
        """Take over the host's own count of the running minute when it is higher than ours.

        ``sent_ns`` (UTC) is when the request went out: an answer from an earlier minute says nothing about this one.
        """
        self._turn_minute()
        if sent_ns is None or sent_ns // _MINUTE_NS == self._minute:
            self._used = max(self._used, used_weight)
            _used.labels(self._host).set(self._used)

    def allow(self, weight_per_minute: int) -> None:
        """Take over the limit that the host itself tells."""
        self._most = weight_per_minute
        for turn in self._waiting:
            turn.look.set()

    def pause(self, seconds: float) -> None:
        """Let nobody send for that long (at most three days); a longer pause already set stays."""
        now_ns = self._clock.mono_ns()
        until_ns = now_ns + round(min(max(seconds, 0.0), _PAUSE_S_MAX) * _SECOND_NS)
        if until_ns > self._paused_ns:
            _paused.labels(self._host).inc((until_ns - max(now_ns, self._paused_ns)) / _SECOND_NS)
            self._paused_ns = until_ns
        for turn in self._waiting:
            turn.look.set()

    def _join(self, turn: _Turn) -> None:
        """Take the last place in the line; one that is not in the background stands before all that are."""
        place = len(self._waiting)
        if not turn.background:
            place = next((at for at, other in enumerate(self._waiting) if other.background), place)
        self._waiting.insert(place, turn)

    def _grant(self) -> None:
        """Give their turn to all at the front who may go now, and wake the next one to wait for its own."""
        while self._waiting:
            turn = self._waiting[0]
            turn.look.set()
            if self._due_ns(turn) > 0:
                return
            self._take(turn.weight)
            turn.granted = True
            self._waiting.popleft()

    async def _wait(self, turn: _Turn, deadline_ns: int) -> None:
        while True:
            if self._waiting and self._waiting[0] is turn:
                self._grant()
            turn.look.clear()
            if turn.granted:
                return
            now_ns = self._clock.mono_ns()
            left_ns = deadline_ns - now_ns
            if self._paused_ns - now_ns > left_ns:
                paused_s = self.paused_s
                raise RateLimited(
                    f"{self._host or 'the host'} asked us to stay away for another {paused_s:.1f} s, "
                    f"longer than this request may wait ({max(0, left_ns) / _SECOND_NS:.1f} s).",
                    paused_s,
                )
            if left_ns <= 0:
                raise TransientError(
                    f"no turn for {self._host or 'the host'} in time: {self.waiting} requests wait. Ask less often."
                )
            wait_ns = min(left_ns, self._due_ns(turn)) if self._waiting[0] is turn else left_ns
            await within(self._clock, wait_ns / _SECOND_NS, turn.look)

    def _due_ns(self, turn: _Turn) -> int:
        """Nanoseconds until a request may go; zero or less is now."""
        now_ns = self._clock.mono_ns()
        if self._config.at_once is not None and self._under_way >= self._config.at_once:
            return _FULL_NS
        due_ns = max(self._paused_ns, self._tat_ns - self._depth_ns) - now_ns
        limit = self._most
        if limit is None:
            return due_ns
        self._turn_minute()
        # Alone in its minute even the heaviest request may go.
        most = max(limit * self._config.background_share, turn.weight) if turn.background else limit
        return max(due_ns, self._minute_ends_ns - now_ns) if self._used + turn.weight > most else due_ns

    def _take(self, weight: int) -> None:
        self._under_way += 1
        longer = 1.0 if self._rng is None else 1.0 + self._rng.uniform(0.0, self._config.jitter)
        self._tat_ns = max(self._tat_ns, self._clock.mono_ns()) + round(self._emission_ns * longer)
        self._turn_minute()
        self._used += weight
        _used.labels(self._host).set(self._used)

    def _turn_minute(self) -> None:
        """Begin a new minute of weights when the wall clock says so, or a minute of real time is over.

        The second matters when the wall clock stands still or was set back: the host's minute goes on.
        """
        wall_ns = self._clock.wall_ns()
        mono_ns = self._clock.mono_ns()
        minute = wall_ns // _MINUTE_NS
        if minute > self._minute or mono_ns >= self._minute_ends_ns:
            self._minute = minute
            self._minute_ends_ns = mono_ns + _MINUTE_NS - wall_ns % _MINUTE_NS
            self._used = 0


class Budgets:
    """One `Budget` for each host, made when first asked for."""

    def __init__(self, clock: Clock, default: Limits | None = None, hosts: Mapping[str, Limits] | None = None) -> None:
        self._clock = clock
        self._default = default or Limits()
        self._hosts = dict(hosts or {})
        self._budgets: dict[str, Budget] = {}

    def of(self, host: str) -> Budget:
        """The budget of a host, named as in a URL, with its port if there is one."""
        budget = self._budgets.get(host)
        if budget is None:
            budget = Budget(self._clock, self._hosts.get(host, self._default), host)
            self._budgets[host] = budget
        return budget

    @property
    def statuses(self) -> tuple[BudgetStatus, ...]:
        """What all budgets look like now."""
        return tuple(budget.status for budget in self._budgets.values())
