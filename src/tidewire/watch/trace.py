"""Naming what differs: frames are read again, parsed by today's code, and compared with what the tables hold of them.

A row is *missing* (its frame has it, no table does), *foreign* (a table has it, its frame does not), *changed* (stored
with other values) or stored *twice*; a frame is *without fate* when it came to nothing that is counted. Rows that are
rightly not under their own frame are none of these: repeats of what was said before, forming bars, quarantined rows.

Frames are read a stretch at a time, so memory does not grow with what is looked at. What cannot be read any more is
said and not guessed about.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import polars as pl

from tidewire.journal import Frame, Kind
from tidewire.records.batch import Batch, Fate, Stream
from tidewire.records.ops import Gap, Quarantined
from tidewire.records.record import RecordType, types
from tidewire.store.protocol import JOURNAL, Store, Stretch
from tidewire.watch.books import BESIDE, Line, Spot
from tidewire.watch.compare import (
    COLUMNS,
    OUT,
    PLACE,
    REJECT,
    Aside,
    Found,
    Judged,
    Parsed,
    accounted,
    compare,
    compare_quarantine,
    judge,
    judge_after,
    nothing,
    parsed,
    places_of,
    repeated,
    rowless,
)
from tidewire.watch.frames import Frames, HourReading, picked

NAMES = 100
"""How many rows are named for a line; the rest is counted."""

REMEMBERED = 100_000
"""How many rows that are not in the tables as they should be are remembered, so that their repeats are known."""

STRAYS = 10_000
"""How many rows of an hour that are of none of its frames are looked at."""

NEAR = timedelta(minutes=10)
"""Where earlier versions are looked for first: reading all there are takes longer."""


Assemble = Callable[[str, Sequence[Frame]], Sequence[Batch]]
"""What turns frames of a journal into batches, by today's parsers."""


@dataclass(frozen=True)
class Evidence:
    """What the audit names rows by.

    ``journals`` gives those that are to be had, as they are when it is asked; they are read in other threads.
    ``sources`` have parsers. ``tell`` hears how many of how many hours are done.
    """

    journals: Callable[[], Sequence[Frames]]
    assemble: Assemble
    sources: Collection[str]
    tell: Callable[[int, int], None] | None = None


@dataclass(frozen=True)
class Name:
    """A row (or a whole frame) that is not as it should be.

    ``what``: ``missing``, ``foreign``, ``changed`` (``columns`` differ), ``twice`` or ``no_fate``. ``ordinal`` is
    ``None`` for a frame.
    """

    what: str
    journal: str | None
    frame: int
    ordinal: int | None
    key: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    columns: Sequence[str] = ()


@dataclass
class Traced:
    """What differs in one line: ``counts`` of all there is, ``names`` of the first `NAMES`.

    ``books`` are fates the books count otherwise than the frames do; ``unread`` says what could not be looked at.
    """

    spot: Spot
    counts: Counter[str] = field(default_factory=Counter[str])
    names: list[Name] = field(default_factory=list[Name])
    books: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    unread: list[str] = field(default_factory=list[str])

    @property
    def found(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.counts or self.books or self.unread)

    def add(self, what: str, rows: pl.DataFrame, kind: RecordType, journal: str | None = None) -> None:
        """Name rows, as many as there is room for."""
        if rows.is_empty():
            return
        self.counts[what] += rows.height
        key = [name for name in kind.key if name != "source"]
        for row in rows.sort(PLACE).head(max(0, NAMES - len(self.names))).iter_rows(named=True):
            named = {name: None if row[name] is None else str(row[name]) for name in key}
            where = row.get(JOURNAL, journal)
            columns = row[COLUMNS] if what == "changed" else ()
            self.names.append(Name(what, where, row["frame"], row["ordinal"], named, columns))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the API and the command line."""
        return {
            "source": self.spot.source,
            "type": self.spot.type,
            "hour": self.spot.hour.isoformat(),
            "counts": dict(self.counts),
            "names": [asdict(name) for name in self.names],
            "more": self.counts.total() - len(self.names),
            "books": self.books,
            "unread": self.unread,
        }


@dataclass
class _Account:
    """One line while it is looked at: what was found, and what its frames come to."""

    line: Line
    traced: Traced
    fates: Counter[str] = field(default_factory=Counter[str])
    stretches: list[Stretch] = field(default_factory=list[Stretch])
    unread: set[str] = field(default_factory=set[str])

    @property
    def spot(self) -> Spot:
        return self.line.spot


@dataclass
class _Memory:
    """Of one type and source: rows ``lost`` from the tables, and places of versions that are ``wrong``."""

    lost: pl.DataFrame
    wrong: pl.DataFrame

    def keep(self, journal: str, lost: Sequence[pl.DataFrame], wrong: Sequence[pl.DataFrame]) -> None:
        self.lost = pl.concat([self.lost, *(part.select(self.lost.columns) for part in lost)]).tail(REMEMBERED)
        places = [part.select(JOURNAL, *PLACE) for part in wrong]
        self.wrong = pl.concat([self.wrong, *places]).tail(REMEMBERED)


@dataclass(frozen=True)
class _Reach:
    """How far the lanes of a type are committed: all up to ``least``, one up to ``most``."""

    least: int
    most: int


class Tracer:
    """Looks at lines, hour by hour."""

    def __init__(self, store: Store, evidence: Evidence) -> None:
        self._store = store
        self._evidence = evidence
        self._memory: dict[tuple[str, str], _Memory] = {}
        self._positions: Mapping[Stream, int] = {}
        self._fates: Mapping[tuple[str, Fate], int] = {}
        self._still = False
        self._journals: Sequence[Frames] = ()

    async def trace(self, lines: Sequence[Line]) -> list[Traced]:
        """What differs in these lines, those without any difference left out."""
        await self._look_at_books()
        # After the positions: every frame they speak of is there.
        self._journals = await asyncio.to_thread(self._evidence.journals)
        hours: defaultdict[int, list[_Account]] = defaultdict(list)
        for line in lines:
            hours[line.spot.hour_us].append(_Account(line, Traced(line.spot)))
        found: list[Traced] = []
        for done, (hour_us, accounts) in enumerate(sorted(hours.items())):
            if self._evidence.tell is not None:
                self._evidence.tell(done, len(hours))
            await self._hour(hour_us, accounts)
            found += [account.traced for account in accounts if account.traced.found]
        if self._evidence.tell is not None:
            self._evidence.tell(len(hours), len(hours))
        return found

    async def _look_at_books(self) -> None:
        """Positions first: what is looked at later holds at least what they promise."""
        for _ in range(3):
            self._positions = dict(self._store.positions())
            self._fates = await self._store.fates()
            self._still = self._positions == self._store.positions()
            if self._still:
                return

    async def _hour(self, hour_us: int, accounts: list[_Account]) -> None:
        known = types()
        looked: list[_Account] = []
        for account in accounts:
            if account.spot.type not in known:
                account.traced.unread.append(f"record type {account.spot.type!r} is not loaded")
            else:
                looked.append(account)
        reading = HourReading(hour_us)
        for journal in self._journals if looked else ():
            stretches = reading.stretches(journal)
            while frames := await asyncio.to_thread(next, stretches, None):
                await self._stretch(journal.uuid, frames, looked)
        for account in looked:
            if known[account.spot.type].folded:
                continue  # its rows follow from frames of other hours too: counted, not named
            account.traced.unread += [*reading.problems, *sorted(account.unread)]
            if not account.traced.unread:
                await self._strays(account)
            self._compare_books(account)

    async def _stretch(self, journal: str, frames: Sequence[Frame], accounts: Sequence[_Account]) -> None:
        batches = await asyncio.to_thread(self._evidence.assemble, journal, frames)
        for source in sorted({account.spot.source for account in accounts}):
            own = [frame for frame in frames if frame.origin.source == source]
            if source not in self._evidence.sources and any(frame.kind is not Kind.CONTROL for frame in own):
                _cannot_parse([account for account in accounts if account.spot.source == source])
                continue
            stretch = Stretch(journal, source, frames[0].sequence - 1, frames[-1].sequence)
            rows = await asyncio.to_thread(parsed, batches, source)
            reach = {name: self._reach(journal, name).least for name in types()}
            quarantine = Aside(await self._store.of_frames(Quarantined.type, stretch), journal, reach)
            whole = quarantine.whole()["frame"]
            # What a frame that could not be read comes to today came in with a decision, if at all.
            rows = {name: one if name == Quarantined.type.name else one.without(whole) for name, one in rows.items()}
            for account in accounts:
                if account.spot.source != source or types()[account.spot.type].folded:
                    continue
                account.stretches.append(stretch)
                if account.spot.type == Quarantined.type.name:
                    numbers = pl.Series([frame.sequence for frame in own], dtype=pl.Int64)
                    await self._quarantine(account, stretch, rows, quarantine, numbers)
                    none = rowless(batches, source)
                    account.fates.update({**none, "received": none.total()})
                    self._no_fate(account, stretch, own, batches)
                else:
                    await self._rows(account, stretch, rows, quarantine)

    # -- rows of a stretch --------------------------------------------------------------------------------------

    async def _rows(self, account: _Account, stretch: Stretch, rows: Mapping[str, Parsed], quarantine: Aside) -> None:
        kind = types()[account.spot.type]
        last = min(stretch.last, self._reach(stretch.journal, kind.name).least)
        if last <= stretch.after:
            return
        mine = rows.get(kind.name, nothing(kind)).upto(last)
        stored = await self._store.of_frames(kind, stretch._replace(last=last))
        places = quarantine.places(kind)
        found = await asyncio.to_thread(compare, mine, stored, places)
        said = mine.good.join(places, on=PLACE, how="anti")
        judged = judge(kind, said, found.absent) if kind is not Gap.type else _all_unsure(found.absent)
        memory = self._remembered(account.spot, kind)
        memory.keep(stretch.journal, [_of(stretch.journal, found.lost)], [found.changed, found.foreign])
        missing = await self._news(account.spot, kind, judged.unsure)
        missing = pl.concat([missing, judged.news.select(missing.columns)])
        memory.keep(stretch.journal, [_of(stretch.journal, missing)], [])
        self._name(account, kind, stretch.journal, found, missing, repeated(kind, said, found.sound))
        failed = mine.failed.join(stored, on=PLACE, how="anti").join(places, on=PLACE, how="anti")
        # Under the rules of its time it may have been a repeat.
        again = failed.height - (await self._news(account.spot, kind, failed)).height
        account.fates.update(_fates(mine, found, missing.height, again, places.filter(OUT).height))

    def _name(
        self,
        account: _Account,
        kind: RecordType,
        journal: str,
        found: Found,
        missing: pl.DataFrame,
        repeats: pl.DataFrame,
    ) -> None:
        traced = account.traced
        traced.add("missing", missing, kind, journal)
        traced.add("changed", found.changed, kind)
        if kind is Gap.type:
            return  # most gaps follow from many frames together, and several may be shown by one row
        traced.add("foreign", found.foreign, kind)
        traced.add("twice", pl.concat([found.twice, repeats]), kind)

    async def _news(self, spot: Spot, kind: RecordType, unsure: pl.DataFrame) -> pl.DataFrame:
        """Which of these rows, none of which is stored, the store should have: all but repeats of what it has."""
        if unsure.is_empty():
            return unsure
        memory = self._remembered(spot, kind)
        times = unsure["event_time"]
        start, end = times.min(), times.max()
        near = await self._store.versions(kind, unsure, start - NEAR, end + NEAR)  # type: ignore[operator]
        judged = judge_after(kind, unsure, [_right(near, memory), memory.lost])
        left = pl.concat([judged.news, judged.unsure])
        if left.is_empty():
            return left
        every = await self._store.versions(kind, left)
        judged = judge_after(kind, left, [_right(every, memory), memory.lost])
        return pl.concat([judged.news, judged.unsure])

    # -- quarantine and frames without rows ---------------------------------------------------------------------

    async def _quarantine(
        self, account: _Account, stretch: Stretch, rows: Mapping[str, Parsed], quarantine: Aside, frames: pl.Series
    ) -> None:
        kind = Quarantined.type
        found = await asyncio.to_thread(compare_quarantine, rows, quarantine, frames)
        missing = found.missing
        for name in missing["record_type"].unique():
            if name in rows:
                missing = await self._wronged(account.spot._replace(type=name), stretch, rows[name], missing)
        named = missing.with_columns(pl.lit(stretch.journal).alias("journal"))
        account.traced.add("missing", named, kind, stretch.journal)
        account.traced.add("foreign", found.foreign, kind)
        account.traced.add("twice", found.twice, kind)
        whole = quarantine.whole()
        unreadable = rows.get(kind.name, nothing(kind)).rejected["frame"].append(whole["frame"]).n_unique()
        out = whole.filter(OUT).height
        account.fates.update({"received": unreadable, "quarantined": unreadable - out, "superseded": out})

    async def _wronged(self, spot: Spot, stretch: Stretch, rows: Parsed, missing: pl.DataFrame) -> pl.DataFrame:
        """Of rows missing in quarantine leave out those that were stored, or repeats, under the rules of their time."""
        held = places_of(spot.type, await self._store.of_frames(rows.type, stretch))
        missing = missing.join(held, on=REJECT, how="anti")
        failed = rows.failed.join(missing.filter(pl.col("record_type") == spot.type), on=PLACE, how="semi")
        again = failed.join(await self._news(spot, rows.type, failed), on=PLACE, how="anti")
        return missing.join(places_of(spot.type, again), on=REJECT, how="anti")

    def _no_fate(self, account: _Account, stretch: Stretch, frames: list[Frame], batches: Sequence[Batch]) -> None:
        lacking = len(frames) - accounted(batches, stretch.source)
        if lacking <= 0:
            return
        traced = account.traced
        traced.counts["no_fate"] += lacking
        room = max(0, NAMES - len(traced.names))
        traced.names += [
            Name("no_fate", stretch.journal, frame.sequence, None, {"collector": frame.origin.collector})
            for frame in self._fateless(stretch, frames, room)
        ]

    def _fateless(self, stretch: Stretch, frames: list[Frame], room: int) -> list[Frame]:
        """The frames that come to nothing, found by halves: which one it was is not told by what is counted."""
        if not frames or not room:
            return []
        if accounted(self._evidence.assemble(stretch.journal, frames), stretch.source) >= len(frames):
            return []
        if len(frames) == 1:
            return frames
        middle = len(frames) // 2
        found = self._fateless(stretch, frames[:middle], room)
        return found + self._fateless(stretch, frames[middle:], room - len(found))

    # -- after the last stretch ---------------------------------------------------------------------------------

    async def _strays(self, account: _Account) -> None:
        """Rows of the hour that are of none of its frames."""
        spot = account.spot
        if spot.type in BESIDE:
            return  # decisions and later states are rows of another time than their frame
        kind = types()[spot.type]
        rows = await self._store.strays(kind, spot.source, spot.hour, account.stretches, STRAYS)
        now = self._store.positions()
        journals = {journal.uuid: journal for journal in self._journals}
        for (uuid,), part in rows.group_by(JOURNAL, maintain_order=True):
            if uuid is None:
                account.traced.add("foreign", part, kind)
            elif uuid not in journals:
                account.traced.unread.append(f"{part.height:,} rows are of journal {uuid}, which is not at hand")
            else:
                done = max((at for stream, at in now.items() if stream[:2] == (uuid, kind.name)), default=0)
                none = part.filter(pl.col("frame") > done)
                account.traced.add("foreign", none, kind)
                past = pl.col("frame") <= self._reach(str(uuid), kind.name).least
                await self._astray(account, journals[str(uuid)], part.filter(past))

    async def _astray(self, account: _Account, journal: Frames, rows: pl.DataFrame) -> None:
        """Rows whose frame is of another hour: is it theirs at all?"""
        if rows.is_empty():
            return
        kind = types()[account.spot.type]
        frames = await asyncio.to_thread(picked, journal, rows["frame"].unique().sort().to_list())
        batches = await asyncio.to_thread(self._evidence.assemble, journal.uuid, frames) if frames else ()
        mine = parsed(batches, account.spot.source).get(kind.name, nothing(kind))
        at_hand = pl.Series([frame.sequence for frame in frames], dtype=pl.Int64)
        found = compare(
            mine, rows.filter(pl.col("frame").is_in(at_hand.implode())), _nowhere(journal.uuid).places(kind)
        )
        account.traced.add("changed", found.changed, kind)
        account.traced.add("foreign", pl.concat([found.foreign, found.twice]), kind)
        left = rows.filter(~pl.col("frame").is_in(at_hand.implode())).height
        if left:
            account.traced.unread.append(f"the frames of {left:,} rows of another hour are not at hand")

    def _compare_books(self, account: _Account) -> None:
        """What the books count otherwise than the frames do, where all of the hour was read and is committed."""
        spot = account.spot
        if account.traced.unread:
            return
        for stretch in account.stretches:
            reach = self._reach(stretch.journal, spot.type)
            at_rest = self._still and reach.least == reach.most == stretch.last
            if reach.least <= stretch.last and not at_rest:
                return
        booked = Counter[str]()
        for (name, fate), count in self._fates.items():
            if (name, fate.source, fate.hour_us) == tuple(spot):
                booked[fate.fate] += count
        account.traced.books = {
            fate: {"books": booked[fate], "frames": account.fates[fate]}
            for fate in sorted({*booked, *account.fates})
            if booked[fate] != account.fates[fate]
        }

    def _reach(self, journal: str, name: str) -> _Reach:
        own = {stream: at for stream, at in self._positions.items() if stream.journal == journal}
        mine = [at for stream, at in own.items() if stream.type == name]
        lanes = len({stream.lane for stream in own})
        return _Reach(min(mine, default=0) if len(mine) == lanes else 0, max(mine, default=0))

    def _remembered(self, spot: Spot, kind: RecordType) -> _Memory:
        places = pl.DataFrame(schema={JOURNAL: pl.String(), **{name: kind.schema[name] for name in PLACE}})
        lost = kind.empty().with_columns(pl.lit(None, pl.String).alias(JOURNAL))
        return self._memory.setdefault((spot.type, spot.source), _Memory(lost, places))


def _fates(mine: Parsed, found: Found, missing: int, again: int, out: int) -> Counter[str]:
    """What the frames come to, fate by fate.

    ``missing`` good rows are not stored, ``again`` rows that fail a rule are repeats, ``out`` came out of quarantine.
    """
    held = pl.concat([part.select(PLACE) for part in (found.sound, found.changed)])
    good = mine.good.join(held, on=PLACE, how="semi").height
    failed = mine.failed.join(held, on=PLACE, how="anti").height
    aside = mine.rejected.height + failed - again + mine.good.height - good - found.absent.height
    return Counter(
        {
            "received": mine.received,
            "stored": held.height + missing,
            "duplicate": found.absent.height - missing + again,
            "folded": mine.forming.height,
            "quarantined": aside - out,
            "superseded": out,
        }
    )


def _nowhere(journal: str) -> Aside:
    """A quarantine without rows."""
    versions = Quarantined.type.empty().with_columns(pl.lit(None, pl.String).alias(JOURNAL))
    return Aside(versions, journal, {Quarantined.type.name: 0})


def _all_unsure(absent: pl.DataFrame) -> Judged:
    """Of gaps the tables have to tell what was said before: most of their states are told by no frame alone."""
    return Judged(absent.clear(), absent.clear(), absent)


def _cannot_parse(accounts: Sequence[_Account]) -> None:
    """Frames of a source that is not installed: what they come to is not known. Control frames need no parser."""
    for account in accounts:
        account.unread.add(f"no parser for source {account.spot.source!r} is loaded")


def _of(journal: str, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.lit(journal).alias(JOURNAL))


def _right(versions: pl.DataFrame, memory: _Memory) -> pl.DataFrame:
    """Versions without those that are known to be wrong; of journals the store does not know none is right."""
    known = versions.filter(pl.col(JOURNAL).is_not_null())
    return known.join(memory.wrong, on=[JOURNAL, *PLACE], how="anti")
