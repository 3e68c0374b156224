"""Trading rules of the mainland exchanges."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.records import china


@pytest.mark.parametrize(
    ("instrument", "board"),
    [
        ("600000.SH", "main"),
        ("601398.SH", "main"),
        ("603288.SH", "main"),
        ("605499.SH", "main"),
        ("688981.SH", "star"),
        ("689009.SH", "star"),
        ("900901.SH", "b_share"),
        ("510300.SH", "fund"),
        ("588000.SH", "fund"),
        ("508000.SH", "reit"),
        ("000001.SH", "index"),
        ("000300.SH", "index"),
        ("113050.SH", "bond"),
        ("000001.SZ", "main"),
        ("001979.SZ", "main"),
        ("002594.SZ", "main"),
        ("003816.SZ", "main"),
        ("300750.SZ", "chinext"),
        ("301001.SZ", "chinext"),
        ("200002.SZ", "b_share"),
        ("159915.SZ", "fund"),
        ("180101.SZ", "reit"),
        ("399001.SZ", "index"),
        ("128136.SZ", "bond"),
        ("830799.BJ", "bse"),
        ("430047.BJ", "bse"),
        ("920002.BJ", "bse"),
        ("899050.BJ", "index"),
        ("BK0475.SZ", "other"),
        ("BTC-USDT.BINANCE", None),
        ("600000", None),
        (None, None),
    ],
)
def test_the_board_of_a_code(instrument: str | None, board: str | None) -> None:
    assert china.board(instrument) == board


@pytest.mark.parametrize(
    ("board", "st", "day", "ratio"),
    [
        ("main", False, date(1996, 12, 13), None),
        ("main", False, date(1996, 12, 16), 0.10),
        ("main", True, date(1998, 4, 21), 0.10),
        ("main", True, date(1998, 4, 22), 0.05),
        ("main", True, date(2026, 7, 3), 0.05),
        ("main", True, date(2026, 7, 6), 0.10),
        ("main", None, date(2020, 1, 2), 0.10),
        ("chinext", False, date(2020, 8, 21), 0.10),
        ("chinext", False, date(2020, 8, 24), 0.20),
        ("chinext", True, date(2020, 8, 24), 0.20),
        ("star", False, date(2019, 7, 19), None),
        ("star", True, date(2019, 7, 22), 0.20),
        ("bse", False, date(2021, 11, 15), 0.30),
        ("fund", None, date(2026, 1, 5), 0.20),
        ("index", None, date(2026, 1, 5), None),
        ("main", True, None, 0.10),
        (None, None, None, None),
    ],
)
def test_limits_by_day(board: china.Board | None, st: bool | None, day: date | None, ratio: float | None) -> None:
    assert china.limit_ratio(board, st, day, 100) == ratio


@pytest.mark.parametrize(
    ("board", "day", "free"),
    [
        ("main", date(2023, 4, 7), 1),
        ("main", date(2023, 4, 10), 5),
        ("chinext", date(2020, 8, 21), 1),
        ("chinext", date(2020, 8, 24), 5),
        ("star", date(2019, 7, 22), 5),
        ("bse", date(2021, 11, 15), 1),
    ],
)
def test_the_first_days_are_free(board: china.Board, day: date, free: int) -> None:
    assert china.limit_ratio(board, False, day, free) is None
    assert china.limit_ratio(board, False, day, free + 1) is not None
    assert china.limit_ratio(board, False, day, None) is None


def test_rows_of_a_board_stand_by_day() -> None:
    for board in {row.board for row in china.LIMITS}:
        days = [row.since for row in china.LIMITS if row.board == board]
        assert days == sorted(set(days))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["main", "star", "chinext", "bse", "b_share", "fund", "reit", "bond", "index", "other", None]
            ),
            st.dates(date(1990, 1, 1), date(2027, 1, 1)),
            st.sampled_from([True, False, None]),
            st.one_of(st.none(), st.integers(1, 8)),
        ),
        max_size=20,
    )
)
def test_columns_say_what_single_values_say(
    cases: list[tuple[china.Board | None, date, bool | None, int | None]],
) -> None:
    schema = {"board": pl.String, "day": pl.Date, "st": pl.Boolean, "days": pl.Int64}
    table = pl.DataFrame(cases, schema=schema, orient="row")
    found = table.select(china.ratios(*(pl.col(name) for name in schema)).alias("ratio"))["ratio"].to_list()
    assert found == [china.limit_ratio(board, risky, day, days) for board, day, risky, days in cases]


@pytest.mark.parametrize(
    ("pre_close", "ratio", "tick", "lower", "upper"),
    [
        (10.00, 0.10, 0.01, 9.00, 11.00),
        (10.05, 0.10, 0.01, 9.05, 11.06),  # 9.045 and 11.055, half up
        (10.04, 0.05, 0.01, 9.54, 10.54),
        (1.15, 0.10, 0.01, 1.04, 1.27),  # 1.035 and 1.265, which no float is
        (4.099, 0.10, 0.001, 3.689, 4.509),
        (5.43, 0.20, 0.01, 4.34, 6.52),
        (9.99, 0.30, 0.01, 6.99, 12.99),
    ],
)
def test_limit_prices_are_rounded_half_up(
    pre_close: float, ratio: float, tick: float, lower: float, upper: float
) -> None:
    table = pl.DataFrame({"pre_close": [pre_close], "ratio": [ratio], "tick": [tick]})
    found = table.select(
        pl.struct(*(one.alias(name) for one, name in zip(china.limits(*map(pl.col, table.columns)), "lu", strict=True)))
    ).to_series()[0]
    assert (found["l"], found["u"]) == (pytest.approx(lower), pytest.approx(upper))


@pytest.mark.parametrize(
    ("name", "risky", "free"),
    [
        ("浦发银行", False, False),
        ("ST中安", True, False),
        ("*ST 信威", True, False),
        ("＊ＳＴ国华", True, False),
        ("S*ST光明", True, False),
        ("SST前锋", True, False),
        ("STAR 50", True, False),
        ("N农发", False, True),
        ("C影石", False, True),
        ("NIO", False, False),
        ("退市海创", False, True),
        ("富控退", False, True),
    ],
)
def test_what_names_say(name: str, risky: bool, free: bool) -> None:
    assert (china.is_st(name), china.is_unlimited(name)) == (risky, free)


def test_no_name_says_nothing() -> None:
    assert (china.is_st(None), china.is_unlimited(None)) == (None, False)


def test_local_times() -> None:
    moments = [
        datetime(2026, 1, 5, 16, tzinfo=UTC),
        datetime(2026, 1, 6, 1, 30, tzinfo=UTC),
        datetime(2026, 1, 6, 5, tzinfo=UTC),
    ]
    table = pl.DataFrame({"at": moments}, schema={"at": pl.Datetime("us", "UTC")})
    second = china.second_of_day(pl.col("at"))
    found = table.select(
        china.local_day(pl.col("at")).alias("day"),
        second.alias("second"),
        china.in_session(second).alias("inside"),
        china.since_open(second).alias("since"),
    )
    assert found.rows() == [
        (date(2026, 1, 6), 0, False, -34_200),
        (date(2026, 1, 6), 34_200, True, 0),
        (date(2026, 1, 6), 46_800, True, 0),
    ]
