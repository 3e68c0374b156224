"""Rows of a stretch of frames beside the rows that are stored of them. Columns in, columns out; reads nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from tidewire.records.batch import Batch, fresh
from tidewire.records.ops import Quarantined
from tidewire.records.record import RecordType
from tidewire.store.protocol import JOURNAL, REVISION

PLACE = ("frame", "ordinal")
"""Where a row is in its journal."""

COLUMNS = "_columns"
"""Of rows that are named: the columns that differ."""

NEAR_US = 60_000_000
"""A store may take a repeat for a new row when its event time is further away than this."""

OUT = "_out"
"""Of quarantined rows: whether a decision took them out, so that another row supersedes them."""

FRAME = "frame"
"""What a quarantined row says as its type when the whole frame could not be read."""

_STATE, _AWAY = "_state", "_away"
_PARSED = "|parsed"
_NEW, _SAME, _OTHER = "new", "same", "other"


@dataclass(frozen=True)
class Parsed:
    """What frames of one source come to for one type, by today's parser and rules.

    ``good`` rows are to be stored, ``failed`` ones fail a rule, ``forming`` ones are not final. ``rejected`` are
    `Quarantined` rows of what could not be taken exactly or not read at all.
    """

    type: RecordType
    good: pl.DataFrame
    failed: pl.DataFrame
    forming: pl.DataFrame
    rejected: pl.DataFrame

    @property
    def rows(self) -> pl.DataFrame:
        """All rows, with what they are."""
        parts = {"good": self.good, "failed": self.failed, "forming": self.forming}
        return pl.concat([rows.with_columns(pl.lit(state).alias(_STATE)) for state, rows in parts.items()])

    @property
    def received(self) -> int:
        """How many rows there are."""
        return sum(part.height for part in (self.good, self.failed, self.forming, self.rejected))

    def upto(self, last: int) -> Parsed:
        """The part of frames up to ``last``."""
        return self._only(pl.col("frame") <= last)

    def without(self, frames: pl.Series) -> Parsed:
        """The part of other frames than these."""
        return self._only(~pl.col("frame").is_in(frames.implode()))

    def _only(self, test: pl.Expr) -> Parsed:
        parts = ("good", "failed", "forming", "rejected")
        return replace(self, **{name: getattr(self, name).filter(test) for name in parts})


def parsed(batches: Iterable[Batch], source: str) -> dict[str, Parsed]:
    """By type, what freshly parsed batches hold of a source."""
    found: dict[str, Parsed] = {}
    for batch in batches:
        kind = batch.type
        rows = batch.rows.filter(pl.col("source") == source)
        failed = kind.check(rows) > 0
        good = rows.filter(~failed)
        forming = good.clear() if kind.final is None else good.filter(~pl.col(kind.final))
        good = good if kind.final is None else good.filter(pl.col(kind.final))
        rejected = fresh(batch.rejected)
        mine = Quarantined.type.empty() if rejected is None else rejected.filter(pl.col("source") == source)
        found[kind.name] = Parsed(kind, good, rows.filter(failed), forming, mine)
    return found


def nothing(kind: RecordType) -> Parsed:
    """What no frames come to."""
    none = kind.empty()
    return Parsed(kind, none, none, none, Quarantined.type.empty())


@dataclass(frozen=True)
class Aside:
    """The quarantine as it is stored, for the frames of one stretch: all versions.

    ``reach`` is how far its types are committed in this ``journal``: decisions that came later do not count yet.
    """

    versions: pl.DataFrame
    journal: str
    reach: Mapping[str, int]

    def places(self, kind: RecordType) -> pl.DataFrame:
        """Places of a type's rows that were quarantined, and whether a decision took them out (`OUT`)."""
        ordinal = pl.col("row").cast(kind.schema["ordinal"]).alias("ordinal")
        return self._of(kind.name).select("frame", ordinal, OUT).group_by(PLACE).agg(pl.col(OUT).any())

    def whole(self) -> pl.DataFrame:
        """Frames that were quarantined whole, because they could not be read, and whether they are out."""
        return self._of(FRAME).select("frame", OUT).group_by("frame").agg(pl.col(OUT).any())

    def _of(self, name: str) -> pl.DataFrame:
        reach = self.reach.get(name, self.reach[Quarantined.type.name])
        told = (pl.col("decision_frame") <= reach) | (pl.col("decision_journal") != self.journal)
        out = pl.col("state").is_in(["released", "corrected"]) & told.fill_null(value=False)
        return self.versions.filter(pl.col("record_type") == name).with_columns(out.alias(OUT))


@dataclass(frozen=True)
class Found:
    """Stored rows that are wrong, those that are right, and rows that are not stored under their own frame.

    ``twice``, ``changed``, ``foreign`` and ``sound`` are stored versions, with the `COLUMNS` that differ; ``lost`` are
    the good rows behind ``changed`` ones. ``absent`` are good rows that no version is stored of.
    """

    twice: pl.DataFrame
    changed: pl.DataFrame
    foreign: pl.DataFrame
    lost: pl.DataFrame
    sound: pl.DataFrame
    absent: pl.DataFrame


def compare(rows: Parsed, stored: pl.DataFrame, quarantine: pl.DataFrame) -> Found:
    """Compare by (frame, ordinal). ``quarantine`` are places as of `Aside`."""
    kind = rows.type
    values = [name for name in kind.schema if name not in {"source", *PLACE}]
    ours = rows.rows.drop("source").rename({name: name + _PARSED for name in values})
    # What comes out of quarantine takes the place of the decision: its own place in the table stays empty.
    away = quarantine.select(PLACE).with_columns(pl.lit(value=True).alias(_AWAY))
    both = stored.join(ours, on=PLACE, how="left", maintain_order="left").join(away, on=PLACE, how="left")
    differs = [pl.when(pl.col(name).ne_missing(pl.col(name + _PARSED))).then(pl.lit(name)) for name in values]
    both = both.with_columns(pl.concat_list(differs).list.drop_nulls().alias(COLUMNS))
    wrong = pl.col(COLUMNS).list.len() > 0
    # Of several at one place the one that is right is the row, the others are copies.
    both = both.sort(wrong, maintain_order=True).with_columns((pl.int_range(pl.len()).over(PLACE) > 0).alias("_copy"))
    known, copy = pl.col(_STATE).is_not_null(), pl.col("_copy")
    elsewhere = pl.col(_AWAY).fill_null(value=False) | (pl.col(_STATE) == "forming")
    versions = [*kind.schema, JOURNAL, REVISION, COLUMNS]
    changed = both.filter(known & ~copy & wrong)
    held = both.filter(known).select(PLACE)
    return Found(
        twice=both.filter(known & copy).select(versions),
        changed=changed.select(versions),
        foreign=both.filter(~known | (~copy & ~wrong & elsewhere)).select(versions),
        lost=rows.good.join(changed.select(PLACE), on=PLACE, how="semi"),
        sound=both.filter(known & ~copy & ~wrong & ~elsewhere).select(versions),
        absent=rows.good.join(held, on=PLACE, how="anti").join(quarantine, on=PLACE, how="anti"),
    )


@dataclass(frozen=True)
class Judged:
    """Absent rows: ``repeats`` of what was said before, ``news`` that had to be stored, ``unsure`` ones.

    ``unsure`` rows are the first of their key among the frames looked at: what was said before has to be looked up.
    """

    repeats: pl.DataFrame
    news: pl.DataFrame
    unsure: pl.DataFrame


def judge(kind: RecordType, said: pl.DataFrame, absent: pl.DataFrame) -> Judged:
    """Tell repeats from news by what the same frames say of the same keys; ``said`` holds ``absent``."""
    told = _told(kind, said, ("frame", "ordinal"))
    verdict = absent.join(told.select(*PLACE, "_verdict"), on=PLACE, how="left")
    return Judged(
        *(verdict.filter(pl.col("_verdict") == which).drop("_verdict") for which in (_SAME, _OTHER, _NEW)),
    )


def judge_after(kind: RecordType, unsure: pl.DataFrame, before: Sequence[pl.DataFrame]) -> Judged:
    """The same by what was said ``before``, in versions and rows; who has none before it stays unsure."""
    names = list(kind.schema)
    parts = [unsure.select(names).with_columns(_stored=pl.lit(value=False))]
    parts += [part.select(names).with_columns(_stored=pl.lit(value=True)) for part in before]
    told = _told(kind, pl.concat(parts), ("ingested_at", *PLACE, "_stored")).filter(~pl.col("_stored"))
    return Judged(*(told.filter(pl.col("_verdict") == which).select(names) for which in (_SAME, _OTHER, _NEW)))


def repeated(kind: RecordType, said: pl.DataFrame, sound: pl.DataFrame) -> pl.DataFrame:
    """Those of the ``sound`` versions whose key said the same just before: they are stored twice."""
    told = _told(kind, said, PLACE)
    near = (pl.col("event_time") - pl.col("event_time").shift(1)).abs().dt.total_microseconds() <= NEAR_US
    again = told.filter((pl.col("_verdict") == _SAME) & near)
    return sound.join(again.select(PLACE), on=PLACE, how="semi")


def _told(kind: RecordType, rows: pl.DataFrame, order: Sequence[str]) -> pl.DataFrame:
    """For each row, sorted by key and ``order``: whether the row of its key before it said the same."""
    ordered = rows.sort(*kind.key, *order)
    # The time of receipt says nothing about the fact: two receipts of one row are one row.
    own = pl.when(pl.col("event_time") != pl.col("ingested_at")).then("event_time").alias("_own")
    said = [name for name in kind.payload if name != "event_time"]
    facts = ordered.select(*said, *([own] if "event_time" in kind.payload else []))
    follows = _as_above(ordered.select(kind.key))
    same = _as_above(facts) if facts.width else pl.Series([True]).new_from_index(0, ordered.height)
    verdict = pl.select(
        pl.when(~follows).then(pl.lit(_NEW)).when(same).then(pl.lit(_SAME)).otherwise(pl.lit(_OTHER)).alias("_verdict")
    ).to_series()
    return ordered.with_columns(verdict)


def _as_above(columns: pl.DataFrame) -> pl.Series:
    """Whether a row has the values of the row above."""
    first = pl.int_range(pl.len()) > 0
    same = [pl.col(name).eq_missing(pl.col(name).shift(1)) for name in columns.columns]
    return columns.select(pl.all_horizontal(first, *same).alias("same")).to_series()


REJECT = ("record_type", "frame", "row")
"""Which row a quarantined one is about."""


@dataclass(frozen=True)
class FoundAside:
    """What is wrong with the quarantine: rows that should be there, rows that come from no frame, copies."""

    missing: pl.DataFrame
    foreign: pl.DataFrame
    twice: pl.DataFrame


def compare_quarantine(rows: Mapping[str, Parsed], quarantine: Aside, frames: pl.Series) -> FoundAside:
    """Compare the quarantine with what ``frames`` come to.

    Any of them may have been unreadable to the parser of its time. Which row was too far in the future depends on the
    frames before it, so any parsed row may rightly be there.
    """
    reach = quarantine.reach
    stored = quarantine.versions
    first = stored.filter(~pl.col(REVISION))
    last = pl.col("record_type").replace_strict(reach, default=reach[Quarantined.type.name], return_dtype=pl.Int64)
    first = first.filter(pl.col("frame") <= last)
    wanted = pl.concat([_wanted(one.upto(reach[name])) for name, one in rows.items()] or [_wanted(_NOTHING)])
    may_be = [one.rejected.select(REJECT) for one in rows.values()]
    may_be += [places_of(name, one.rows) for name, one in rows.items()]
    may_be.append(places_of(FRAME, frames.alias("frame").to_frame().with_columns(ordinal=pl.lit(0))))
    return FoundAside(
        missing=wanted.join(stored, on=REJECT, how="anti"),
        foreign=first.join(pl.concat(may_be), on=REJECT, how="anti"),
        twice=first.filter(pl.int_range(pl.len()).over(REJECT) > 0),
    )


def _wanted(one: Parsed) -> pl.DataFrame:
    """What must be in quarantine by today's rules."""
    failed = places_of(one.type.name, one.failed).hstack(one.failed.select("ordinal"))
    return pl.concat([one.rejected.select(*REJECT, "ordinal"), failed])


def places_of(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Places of a type's rows as the quarantine writes them: `REJECT`."""
    row = pl.col("ordinal").cast(Quarantined.type.schema["row"]).alias("row")
    return rows.select(pl.lit(name).alias("record_type"), "frame", row)


def accounted(batches: Sequence[Batch], source: str) -> int:
    """How many frames of a source came to anything: rows, rejects, or a note that they carry none.

    A folded frame may show a gap besides, and is counted twice then.
    """
    frames = [pl.Series([], dtype=pl.Int64)]
    for batch in batches:
        if batch.type.folded:
            continue  # they follow from frames that are counted as folded, whichever frame they stand at
        rejected = fresh(batch.rejected)
        parts = [batch.rows, *([] if rejected is None else [rejected])]
        frames += [part.filter(pl.col("source") == source)["frame"] for part in parts]
    return pl.concat(frames).n_unique() + rowless(batches, source).total()


def rowless(batches: Iterable[Batch], source: str) -> Counter[str]:
    """How many frames of a source say themselves that they carry no rows, or went into rows of later ones."""
    found = Counter[str]()
    for batch in batches:
        if batch.type is not Quarantined.type:  # that is where frames are counted
            continue
        for fate, count in batch.fates.items():
            if fate.source == source and fate.fate in _ROWLESS:
                found[fate.fate] += count
    return found


_ROWLESS = ("control", "folded")
_NOTHING = nothing(Quarantined.type)
