"""Loading history: what a series had before it was collected live, new to old, behind everything live.

The past of a series is cut into *shards* of time. Of all series the newest shard that is not loaded comes first, so
that every series has its last day before any has its last month; of one series one shard at a time is loaded, so that
its rows reach the journal from new to old, and no order value ever jumps. Every reply is kept together with a cursor
that says what is loaded now: after a restart, also after a kill, loading goes on just there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from tidewire import telemetry
from tidewire.collect.coverage import Coverage
from tidewire.collect.http import Reply
from tidewire.collect.timer import within
from tidewire.errors import ConfigError, RateLimited, TerminalError
from tidewire.records.clock import utc

if TYPE_CHECKING:
    from tidewire.collect.collector import Collector
    from tidewire.journal import Frame

HISTORY = "history"
"""How the names of its cursors begin."""
WORKERS = 4
WORKERS_MAX = 64
RETRY_S = 1.0
RETRY_S_MAX = 300.0
DAY_US = 86_400_000_000

_CURSOR = f'{{"{HISTORY}:'.encode()

STATES: tuple[str, ...] = ("waiting", "loading", "done", "failed")

_log = telemetry.log("collect")
_shards = telemetry.gauge(
    "backfill_shards", "Shards of history, by what became of them", ("source", "collector", "state")
)
_rows = telemetry.counter("backfill_rows", "Rows of history that replies brought", ("source", "collector"))


@dataclass(frozen=True)
class Wanted:
    """A series whose history is wanted from ``start_us`` on, in shards of ``shard_us``, UTC microseconds.

    ``align`` gives the last time, not after another, at which a row may begin; ``row_us`` is the distance of rows
    where they have one.
    """

    instrument: str
    series: str | None
    start_us: int
    shard_us: int
    row_us: int | None = None
    align: Callable[[int], int] = lambda at_us: at_us

    @property
    def name(self) -> str:
        """The name of its cursor."""
        return ":".join((HISTORY, self.instrument, *([] if self.series is None else [self.series])))


@dataclass(frozen=True)
class Shard:
    """A part of the past of one series: [``start_us``, ``end_us``). Nothing before ``oldest_us`` is wanted."""

    kind: str
    instrument: str
    series: str | None
    start_us: int
    end_us: int
    oldest_us: int


@dataclass(frozen=True)
class Part:
    """One reply for a shard. With it all of [``begin_us``, ``end_us``) is loaded, ``rows`` rows of it by this reply.

    It may reach below the shard; an empty range is a reply that only helps to find others.
    """

    reply: Reply
    begin_us: int
    end_us: int
    rows: int = 0


Load = Callable[[Shard], AsyncGenerator[Part]]
"""Asks for a shard, in the background of the budget, from new to old; `TerminalError` ends the series."""


@dataclass
class _Line:
    """One series and how far it is."""

    wanted: Wanted
    head_us: int
    done: Coverage
    loading: bool = False
    failed: str = ""
    problem: str = ""
    failures: int = 0
    not_before_ns: int = 0
    shards: dict[str, int] = field(default_factory=dict[str, int])

    def next(self, kind: str) -> Shard | None:
        """The newest shard that is not loaded."""
        wanted = self.wanted
        found = self.done.newest_missing(wanted.start_us, self.head_us, wanted.shard_us)
        if found is None:
            return None
        return Shard(kind, wanted.instrument, wanted.series, *found, wanted.start_us)

    def count(self) -> Mapping[str, int]:
        """How many shards are in each state."""
        wanted = self.wanted
        length = max(0, self.head_us - wanted.start_us)
        left_us = length - self.done.within(wanted.start_us, self.head_us)
        left = -(-left_us // wanted.shard_us)
        total = -(-length // wanted.shard_us)
        loading = int(self.loading and left > 0)
        rest = "failed" if self.failed else "waiting"
        return dict.fromkeys(STATES, 0) | {"done": total - left, "loading": loading, rest: left - loading}

    @property
    def state(self) -> str:
        """What it does now."""
        if self.failed or self.loading:
            return "failed" if self.failed else "loading"
        return "waiting" if self.next("") is not None else "done"


class Backfill:
    """Loads the history of the series of one collector; `start` and `stop` with it.

    At most ``workers`` shards are asked for at a time. What waits is one entry for each series.
    """

    def __init__(self, collector: Collector, kind: str, load: Load, workers: int = WORKERS) -> None:
        self._collector = collector
        self._context = collector.app.context
        self._kind = kind
        self._load = load
        self._workers = workers
        self._lines: list[_Line] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._began_ns = 0
        self._loaded_us = 0
        """How much was loaded since the start."""

    # -- life -------------------------------------------------------------------------------------------------

    def want(self, wanted: Sequence[Wanted]) -> None:
        """What is to be loaded too; what earlier runs loaded of it is known from the cursors."""
        self._lines += [
            _Line(each, each.start_us, Coverage.decode(self._collector.cursor(each.name))) for each in wanted
        ]

    def reach(self, head_us: int) -> None:
        """History ends here, and later ends are added: what comes after is the live stream's."""
        for line in self._lines:
            line.head_us = max(line.head_us, line.wanted.align(head_us))
            self._counted(line)
        self._news.set()

    def start(self) -> None:
        """Begin to load."""
        self._began_ns = self._context.clock.mono_ns()
        self._task = asyncio.create_task(self._run(), name=f"backfill {self._collector.app.name} {self._kind}")

    async def stop(self) -> None:
        """Stop loading; what was kept counts."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        clock = self._context.clock
        while True:
            self._news.clear()
            found = self._take()
            if found is None:
                await within(clock, self._pause_s(), self._news)
                continue
            line, shard = found
            try:
                await self._load_shard(line, shard)
            finally:
                line.loading = False
                self._counted(line)
                self._news.set()

    def _take(self) -> tuple[_Line, Shard] | None:
        """Of the series that may be asked for now, the one with the newest shard."""
        now_ns = self._context.clock.mono_ns()
        best: tuple[_Line, Shard] | None = None
        for line in self._lines:
            if line.loading or line.failed or line.not_before_ns > now_ns:
                continue
            shard = line.next(self._kind)
            if shard is not None and (best is None or shard.end_us > best[1].end_us):
                best = line, shard
        if best is not None:
            best[0].loading = True
            self._counted(best[0])
        return best

    def _pause_s(self) -> float:
        """Until the next series that was put off may be asked for again."""
        now_ns = self._context.clock.mono_ns()
        put_off = [line.not_before_ns - now_ns for line in self._lines if not (line.loading or line.failed)]
        return min((wait for wait in put_off if wait > 0), default=round(RETRY_S_MAX * 1e9)) / 1e9

    # -- one shard --------------------------------------------------------------------------------------------

    async def _load_shard(self, line: _Line, shard: Shard) -> None:
        before = line.done
        try:
            async with contextlib.aclosing(self._load(shard)) as parts:
                async for part in parts:
                    await self._keep(line, part)
        except RateLimited as error:
            self._put_off(line, error, error.retry_after)
        except TerminalError as error:
            line.failed = str(error)
            self._collector.report(error, f"history of {line.wanted.name}")
        except Exception as error:
            self._put_off(line, error)
            self._collector.report(error, f"history of {line.wanted.name}")
        else:
            if line.done == before:
                self._put_off(line, RuntimeError("the answers brought nothing of it"))
            else:
                line.failures, line.problem = 0, ""

    async def _keep(self, line: _Line, part: Part) -> None:
        wanted = line.wanted
        before = line.done.within(wanted.start_us, line.head_us)
        done = line.done.add(part.begin_us, part.end_us, part.rows)
        # What is not loaded by this reply says nothing: the cursor of an older one stands.
        await self._collector.keep(part.reply, {wanted.name: done.encode()} if done != line.done else None)
        line.done = done
        self._loaded_us += done.within(wanted.start_us, line.head_us) - before
        _rows.labels(self._collector.app.name, self._collector.name).inc(part.rows)
        self._counted(line)

    def _put_off(self, line: _Line, error: Exception, at_least_s: float = 0.0) -> None:
        line.failures += 1
        line.problem = str(error)
        longest = min(RETRY_S_MAX, RETRY_S * 2.0 ** min(line.failures - 1, 20))
        wait_s = at_least_s + self._context.rng.uniform(longest / 2, longest)
        line.not_before_ns = self._context.clock.mono_ns() + round(wait_s * 1e9)
        _log.info("history put off", series=line.wanted.name, wait_s=wait_s, error=str(error))

    def loads(self, instrument: str, series: str | None, begin_us: int, end_us: int) -> bool:
        """Whether a part of [``begin_us``, ``end_us``) is still to be loaded and nothing holds that up."""
        for line in self._lines:
            if (line.wanted.instrument, line.wanted.series) == (instrument, series):
                begin_us, end_us = max(begin_us, line.wanted.start_us), min(end_us, line.head_us)
                held_up = line.failed or line.failures
                return not held_up and line.done.within(begin_us, end_us) < end_us - begin_us
        return False

    # -- how it is --------------------------------------------------------------------------------------------

    def _counted(self, line: _Line) -> None:
        line.shards = dict(line.count())
        total = Counter[str]()
        for each in self._lines:
            total.update(each.shards)
        for state in STATES:
            _shards.labels(self._collector.app.name, self._collector.name, state).set(total[state])

    def _eta_s(self) -> float | None:
        """Seconds until all is loaded, at the pace since the start; ``None`` while there is no pace."""
        left_us = sum(
            line.head_us - line.wanted.start_us - line.done.within(line.wanted.start_us, line.head_us)
            for line in self._lines
            if not line.failed and line.head_us > line.wanted.start_us
        )
        if not left_us:
            return 0.0
        spent_s = (self._context.clock.mono_ns() - self._began_ns) / 1e9
        return round(left_us / self._loaded_us * spent_s, 1) if self._loaded_us else None

    def status(self) -> list[dict[str, Any]]:
        """How far each series is, as plain data."""
        eta_s = self._eta_s()
        return [self._status(line, eta_s) for line in self._lines]

    def _status(self, line: _Line, eta_s: float | None) -> dict[str, Any]:
        wanted = line.wanted
        length = max(0, line.head_us - wanted.start_us)
        loaded = line.done.within(wanted.start_us, line.head_us)
        missing = line.done.newest_missing(wanted.start_us, line.head_us, length)
        state = line.state
        return {
            "collector": self._collector.name,
            "record_type": self._kind,
            "instrument": wanted.instrument,
            "series": wanted.series,
            "state": state,
            "start": _shown(wanted.start_us),
            "end": _shown(line.head_us),
            "oldest": _shown(wanted.start_us if missing is None else missing[1]),
            "shards_done": line.shards.get("done", 0),
            "shards_total": sum(line.shards.values()),
            "rows": line.done.rows,
            "rows_total": length // wanted.row_us if wanted.row_us else None,
            "percent": round(100 * loaded / length, 2) if length else 100.0,
            "eta_seconds": None if state == "failed" else 0.0 if state == "done" else eta_s,
            "error": line.failed or line.problem or None,
        }


def is_history(frame: Frame) -> bool:
    """Whether a frame was kept by a `Backfill`, as far as it loaded something new."""
    return frame.cursor.startswith(_CURSOR)


def _shown(at_us: int) -> str:
    return utc(at_us * 1_000).isoformat()


def history_start(days: int | None, start: date | None, now_us: int) -> int | None:
    """From when on history is wanted, UTC microseconds; ``None`` where none is.

    Raises:
        ConfigError: for a start in the future.
    """
    if start is not None:
        at_us = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) * 1_000_000
        if at_us > now_us:
            raise ConfigError(f"start_date {start.isoformat()} is in the future: write today or an earlier day.")
        return at_us
    return None if not days else (now_us - days * DAY_US) // DAY_US * DAY_US


def check_history(days: int | None, start: date | None, workers: int = WORKERS) -> None:
    """Raise `ConfigError` for a wish that cannot be meant."""
    if days is not None and start is not None:
        raise ConfigError("history_days and start_date are both there: write one of them.")
    if days is not None and not 0 <= days <= 36_500:
        raise ConfigError(f"history_days {days}: write 0 (none) to 36500 days.")
    if start is not None and start.year < 1990:
        raise ConfigError(f"start_date {start.isoformat()}: write a day from 1990 on, e.g. 2024-01-01.")
    if not 1 <= workers <= WORKERS_MAX:
        raise ConfigError(f"history_workers {workers}: write 1 to {WORKERS_MAX} requests at a time.")
