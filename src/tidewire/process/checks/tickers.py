"""Checks of tickers that remember: the rows before of each series, the last round of each source.

All of it is bounded and a function of rows in the order of their frames, not of how these were batched. What is
remembered begins anew with the process, beside what the warm-up shows; so these checks flag and never reject.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from tidewire.process.checks.alone import FOUND, Found, told
from tidewire.process.checks.rules import Rule
from tidewire.records import china

MAX_ROWS = 200_000
"""Rows that are remembered; the oldest are forgotten."""
SETTLED = 6
"""Sessions a series was seen in before its stock counts as listed long enough for limits to hold."""

_SERIES = ["source", "instrument"]
_KEPT = ("last", "pre_close", "volume", "amount", "event_time", "day", "second")
_CLOSED = 54_000
"""15:00 as a second of the day."""


class Tickers:
    """Remembers the last two rows of each series, and the instruments of each source's running stretch."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = {rule.short: rule for rule in rules.values()}
        self._last: pl.DataFrame | None = None
        self._latest: pl.DataFrame | None = None
        self._stretch: dict[str, tuple[int, set[str]]] = {}
        self._before: dict[str, int] = {}

    def look(self, rows: pl.DataFrame, names: Mapping[str, str]) -> Iterator[Found]:
        """What these prepared rows, in the order of their frames, show; ``names`` by instrument as far as known."""
        whole = self._with_past(rows)
        made = {
            "limit": lambda rule: _limit(rule, whole, names),
            "pre_close": lambda rule: _pre_close(rule, whole),
            "spike": lambda rule: _spike(rule, whole),
            "frozen": lambda rule: _frozen(rule, whole),
            "rows": lambda rule: self._rounds(rule, rows),
            "sources": lambda rule: self._sources(rule, rows),
        }
        for short, rule in self._rules.items():
            found = made[short](rule)
            if found.height:
                yield found

    def _with_past(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Each row with the two before it in its series (``_1``, ``_2``), and in how many sessions that was seen before."""
        new = rows.with_columns(seen=pl.lit(0, pl.Int32), new=pl.lit(value=True))
        past, rest = _split(self._last, rows, _SERIES)
        every = new if past is None else pl.concat([past, new])
        later = (pl.col("day") > pl.col("day").shift(1).over(_SERIES)).fill_null(value=False).cast(pl.Int32)
        every = every.with_columns(
            *(pl.col(name).shift(back).over(_SERIES).alias(f"{name}_{back}") for back in (1, 2) for name in _KEPT),
            seen=pl.col("seen").first().over(_SERIES) + later.cum_sum().over(_SERIES),
        )
        last = every.select(new.columns).group_by(_SERIES, maintain_order=True).tail(2).select(new.columns)
        last = last.with_columns(new=pl.lit(value=False))
        self._last = _bounded(last if rest is None else pl.concat([rest, last]))
        return every.filter("new")

    def _rounds(self, rule: Rule, rows: pl.DataFrame) -> Found:
        """Stretches of a session that brought fewer instruments than the ones before them."""
        length = round(rule.numbers["seconds"])
        moment = pl.col("ingested_at")
        stretches = rows.filter(china.in_session(china.second_of_day(moment))).with_columns(
            stretch=(moment.dt.epoch("s") + china.UTC_OFFSET_S) // length
        )
        shown: list[pl.DataFrame] = []
        for (source, stretch), part in stretches.partition_by("source", "stretch", as_dict=True).items():
            running, names = self._stretch.get(str(source), (int(stretch), set[str]()))
            if int(stretch) != running:
                before, now = self._before.get(str(source), 0), len(names)
                if before >= rule.numbers["least"] and now < rule.numbers["share"] * before:
                    shown.append(
                        part.head(1).with_columns(
                            now=pl.lit(now), before=pl.lit(before), since=pl.lit(running * length - china.UTC_OFFSET_S)
                        )
                    )
                self._before[str(source)] = now
                names = set[str]()
            names |= set(part["instrument"].unique().to_list())
            self._stretch[str(source)] = (int(stretch), names)
        if not shown:
            return pl.DataFrame(schema=FOUND)
        rows = pl.concat(shown).with_columns(
            instrument=pl.lit(None, pl.String), event_time=pl.from_epoch("since").cast(pl.Datetime("us", "UTC"))
        )
        return told(
            rows, rule, pl.format("{} instruments", "now"), pl.format("near {}, as in the stretch before", "before")
        )

    def _sources(self, rule: Rule, rows: pl.DataFrame) -> Found:
        """Rows that differ from what another source said just before of the same instrument."""
        columns = [*FOUND_PLACE, "tick", *_KEPT_ONCE]
        mine = rows.select(columns).with_columns(new=pl.lit(value=True))
        past, rest = _split(self._latest, rows, ["instrument"])
        every = mine if past is None else pl.concat([past, mine])
        latest = every.group_by("instrument", maintain_order=True).tail(1).select(mine.columns)
        latest = latest.with_columns(new=pl.lit(value=False))
        self._latest = _bounded(latest if rest is None else pl.concat([rest, latest]))
        if every["source"].n_unique() < 2:
            return pl.DataFrame(schema=FOUND)
        both = every.with_columns(pl.col("source", *_KEPT).shift(1).over("instrument").name.suffix("_1")).filter(
            pl.col("new") & (pl.col("source") != pl.col("source_1")) & (pl.col("day") == pl.col("day_1"))
        )
        apart = (pl.col("event_time") - pl.col("event_time_1")).abs().dt.total_microseconds() / 1e6
        closed = pl.min_horizontal("second", "second_1") >= _CLOSED
        numbers = rule.numbers
        near = pl.when(closed).then(numbers["closed"]).when(apart <= numbers["seconds"]).then(numbers["price"])
        differ = {
            "pre_close": (pl.col("pre_close") - pl.col("pre_close_1")).abs() > pl.col("tick").fill_null(0.01) * 1.001,
            "last": _apart("last") > near,
            "volume": (closed & (_apart("volume") > numbers["closed"])) | (_times("volume") > numbers["factor"]),
            "amount": closed & (_apart("amount") > numbers["closed"]),
        }
        wrong = both.filter(pl.any_horizontal(fails.fill_null(value=False) for fails in differ.values()))
        said = pl.concat_str(
            [pl.when(fails).then(pl.format(f"{name} {{}}", name)) for name, fails in differ.items()],
            separator=", ",
            ignore_nulls=True,
        )
        theirs = pl.concat_str(
            [pl.when(fails).then(pl.format(f"{name} {{}}", f"{name}_1")) for name, fails in differ.items()],
            separator=", ",
            ignore_nulls=True,
        )
        return told(wrong, rule, said, theirs, pl.format("{} said so at {}", "source_1", "event_time_1"))


_KEPT_ONCE = ("last", "pre_close", "volume", "amount", "day", "second")
FOUND_PLACE = ("source", "instrument", "event_time", "ingested_at", "frame", "ordinal")


def _apart(name: str) -> pl.Expr:
    """Relative difference from the other row."""
    return (pl.col(name) / pl.col(f"{name}_1") - 1).abs()


def _times(name: str) -> pl.Expr:
    """How many times one is the other; null where one is 0."""
    mine, theirs = pl.col(name), pl.col(f"{name}_1")
    return pl.when((mine > 0) & (theirs > 0)).then(pl.max_horizontal(mine / theirs, theirs / mine))


def _split(
    past: pl.DataFrame | None, rows: pl.DataFrame, on: list[str]
) -> tuple[pl.DataFrame | None, pl.DataFrame | None]:
    """What is remembered of the series of these rows, and of all others."""
    if past is None:
        return None, None
    known = rows.select(on).unique()
    mine = past.join(known, on=on, how="semi", maintain_order="left")
    return mine, past.join(known, on=on, how="anti", maintain_order="left")


def _bounded(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.tail(MAX_ROWS)


def _limit(rule: Rule, rows: pl.DataFrame, names: Mapping[str, str]) -> Found:
    """Prices beyond the limits of the day; only where a stock was seen in enough sessions not to be new."""
    rows = rows.filter((pl.col("seen") >= SETTLED) & (pl.col("pre_close") > 0))
    if rows.is_empty():
        return pl.DataFrame(schema=FOUND)
    rows = with_limits(rows, names, "pre_close")
    slack = rule.numbers["ticks"] * pl.col("tick") + 1e-9
    most, least = pl.max_horizontal("last", "high"), pl.min_horizontal("last", "low")
    bad = rows.filter((most > pl.col("upper") + slack) | (least < pl.col("lower") - slack))
    return told(bad, rule, pl.format("{} to {}", least, most), pl.format("{} to {}", "lower", "upper"))


def with_limits(rows: pl.DataFrame, names: Mapping[str, str], before: str) -> pl.DataFrame:
    """With ``lower`` and ``upper``, the limits that follow from the close before; null where none are known."""
    known = {one: names[one] for one in rows["instrument"].unique().to_list() if one in names}
    risky = [one for one, name in known.items() if china.is_st(name)]
    free = [one for one, name in known.items() if china.is_unlimited(name)]
    instrument = pl.col("instrument")
    ratio = china.ratios(pl.col("board"), pl.col("day"), instrument.is_in(risky), pl.lit(SETTLED))
    lower, upper = china.limits(pl.col(before), pl.when(~instrument.is_in(free)).then(ratio), pl.col("tick"))
    return rows.with_columns(lower=lower, upper=upper)


def _pre_close(rule: Rule, rows: pl.DataFrame) -> Found:
    """A close before that does not fit the rows before."""
    step = pl.col("tick").fill_null(0.01) * 0.501
    same = pl.col("day") == pl.col("day_1")
    next_one = pl.business_day_count("day_1", "day") == 1
    ended = pl.col("second_1") >= _CLOSED
    expected = pl.when(same).then(pl.col("pre_close_1")).when(next_one & ended).then(pl.col("last_1"))
    bad = rows.with_columns(close_before=expected).filter((pl.col("pre_close") - pl.col("close_before")).abs() > step)
    lower = pl.col("pre_close") < pl.col("close_before")
    why = (
        pl.when(pl.col("day") == pl.col("day_1"))
        .then(pl.lit("changed during the session"))
        .when(lower)
        .then(pl.lit("as on an ex-date"))
        .otherwise(pl.lit("above the last price: no dividend explains it"))
    )
    return told(bad, rule, pl.format("pre_close {}", "pre_close"), pl.format("{}", "close_before"), why)


def _spike(rule: Rule, rows: pl.DataFrame) -> Found:
    """The row before, where it stands out from its neighbours; shown by the row that came back."""
    return spikes(
        rule,
        rows,
        "last",
        (pl.col("event_time") - pl.col("event_time_2")).dt.total_seconds() <= rule.numbers["seconds"],
    )


def spikes(rule: Rule, rows: pl.DataFrame, price: str, near: pl.Expr) -> Found:
    """Rows whose predecessor's ``price`` jumped and which are back where the one before it was."""
    now, then, before = pl.col(price), pl.col(f"{price}_1"), pl.col(f"{price}_2")
    away = (then / before - 1).abs() > rule.numbers["jump"]
    back = (now / before - 1).abs() <= rule.numbers["back"]
    bad = rows.filter(away & back & near & (pl.col("day") == pl.col("day_2")))
    bad = bad.with_columns(event_time="event_time_1")
    return told(bad, rule, pl.format(f"{price} {{}}", then), pl.format("near {} and {}", before, now))


def _frozen(rule: Rule, rows: pl.DataFrame) -> Found:
    """Frames in which hardly anything moved though it is said to be of a later time."""
    numbers = rule.numbers
    later = (pl.col("event_time") - pl.col("event_time_1")).dt.total_microseconds() >= numbers["seconds"] * 1e6
    inside = china.in_session(pl.col("second")) & china.in_session(pl.col("second_1"))
    same = pl.all_horizontal(pl.col(name) == pl.col(f"{name}_1") for name in ("last", "volume", "day"))
    told_of = rows.filter(later & inside & (pl.col("volume") > 0) & (pl.col("day") == pl.col("day_1")))
    frames = told_of.group_by("source", "frame", maintain_order=True).agg(
        pl.len(), same.sum().alias("still"), pl.col("event_time", "ingested_at", "ordinal").first()
    )
    bad = frames.filter((pl.col("len") >= numbers["least"]) & (pl.col("still") >= numbers["share"] * pl.col("len")))
    bad = bad.with_columns(instrument=pl.lit(None, pl.String))
    said = pl.format("{} of {} rows with the price and volume of the ones before", "still", "len")
    return told(bad, rule, said, pl.lit("prices that move in continuous trading"))
