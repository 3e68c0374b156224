"""The closed list of filters: what each makes of a value, and of one it cannot read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.errors import ConfigError
from tidewire.records.instrument import uid
from tidewire.sources.declared.steps import FILTERS, applied, compiled
from tidewire.sources.declared.times import micros_of

GOOD: list[tuple[str, list[str], Any, Any]] = [
    ("decimal", [], "8.750", "8.750"),
    ("decimal", [], " 1,234.5 ", "1234.5"),
    ("decimal", [], "-", None),
    ("decimal", [], 8, "8"),
    ("int", [], "805221", 805221),
    ("int", [], "1.0", 1),
    ("int", [], "--", None),
    ("scale", ["2"], 805221, 80522100),
    ("scale", ["-2"], "1.25", "0.0125"),
    ("scale", ["2"], "1.25", "125"),
    ("times", ["10000"], "145133.4748", "1451334748.0000"),
    ("positive", [], "0.000", None),
    ("positive", [], "0.001", "0.001"),
    ("levels", ["0"], ["8.75", 53000, "8.74", "115800", "0.000", "7"], ["8.75", "8.74"]),
    ("levels", ["1"], ["8.75", 53000, "8.74", "115800", "0.000", "7"], ["53000", "115800"]),
    ("levels", ["1", "2"], ["8.75", "530", "-", "1"], ["53000"]),
    ("str", [], 5, "5"),
    ("str", [], True, "true"),
    ("strip", [], "\u3000a ", "a"),
    ("strip", ["-"], "-a-", "a"),
    ("squeeze", [], "万  科Ａ", "万科Ａ"),
    ("strip_tags", [], "<em>平安</em>&amp;", "平安&"),
    ("lower", [], "SH", "sh"),
    ("upper", [], "sh", "SH"),
    ("replace", ["-", "/"], "a-b-c", "a/b/c"),
    ("regex", ["[a-z]+(\\d+)"], "sh600000", "600000"),
    ("regex", ["\\d+"], "sh600000", "600000"),
    ("regex", ["x"], "sh600000", None),
    ("part", ["/", "1"], "8.75/11131/145", "11131"),
    ("part", ["/", "5"], "8.75/11131", None),
    ("cut", ["2"], "sh600000", "600000"),
    ("cut", ["0", "2"], "sh600000", "sh"),
    ("prefix", ["a"], "b", "ab"),
    ("suffix", ["a"], "b", "ba"),
    ("join", [], ["a", 1], "a,1"),
    ("map", ["0=SZ", "1=SH"], 1, "SH"),
    ("map", ["0=SZ", "*=SH"], "7", "SH"),
    ("null_if", ["0", "x"], "x", None),
    ("null_if", ["0"], 1, 1),
    ("cn_exchange", [], "600000", "SH"),
    ("cn_exchange", [], "688001", "SH"),
    ("cn_exchange", [], "900901", "SH"),
    ("cn_exchange", [], "000001", "SZ"),
    ("cn_exchange", [], "301001", "SZ"),
    ("cn_exchange", [], "200011", "SZ"),
    ("cn_exchange", [], "920002", "BJ"),
    ("cn_exchange", [], "830799", "BJ"),
    ("shift", ["-5m"], 300_000_000, 0),
    ("shift", ["1h30m"], 0, 5_400_000_000),
    ("uid", [], "600000.SH", uid("SH", "600000")),
    ("uid", [], "920047.BJ", uid("BJ", "430047")),
    ("cn_symbol", [], "sh600000", "600000.SH"),
    ("cn_symbol", [], "600000.ss", "600000.SH"),
    ("cn_symbol", [], "0.000001", "000001.SZ"),
    ("cn_symbol", [], "0.920002", "920002.BJ"),
    ("cn_symbol", ["600000"], "0.000001", "000001"),
    ("epoch_s", [], 1783409697, 1_783_409_697_000_000),
    ("epoch_ms", [], "1783409697123", 1_783_409_697_123_000),
    ("epoch_us", [], 1783409697123456, 1_783_409_697_123_456),
    ("time", ["%Y-%m-%d %H:%M:%S"], "2026-07-03 10:13:29", "2026-07-03T02:13:29"),
    ("time", ["%Y%m%d%H%M%S", "UTC"], "20260806104333", "2026-08-06T10:43:33"),
    ("iso", [], "2026-07-03", "2026-07-02T16:00:00"),
    ("iso", [], "2026-07-03T10:13:29+00:00", "2026-07-03T10:13:29"),
    ("rfc822", [], "Fri, 03 Jul 2026 10:13:29 GMT", "2026-07-03T10:13:29"),
    ("months", ["0"], 1_783_382_400_000_000, "2026-06-30T16:00:00"),
    ("months", ["1"], 1_783_382_400_000_000, "2026-07-31T16:00:00"),
    ("months", ["6", "UTC"], 1_783_382_400_000_000, "2027-01-01T00:00:00"),
    ("date", ["%Y-%m-%d"], 1_783_382_400_000_000, "2026-07-07"),
]


@pytest.mark.parametrize(("name", "arguments", "value", "expected"), GOOD)
def test_what_a_filter_makes(name: str, arguments: list[str], value: Any, expected: Any) -> None:
    if isinstance(expected, str) and "T" in expected and name in ("time", "iso", "rfc822", "months"):
        expected = micros_of(datetime.fromisoformat(expected), UTC)
    assert applied(compiled(name, arguments, "here"), [value]) == [expected]


@pytest.mark.parametrize("symbol", ["600000.SH", "000001.SZ", "000001.SH", "830799.BJ", "920002.BJ"])
@pytest.mark.parametrize("like", ["sh600000", "SZ000001", "sh.600000", "1.600000", "600000.SH"])
def test_a_mainland_symbol_is_spelt_as_each_site_does_and_back(symbol: str, like: str) -> None:
    (spelt,) = applied(compiled("cn_symbol", [like], "here"), [symbol])
    assert applied(compiled("cn_symbol", [], "here"), [spelt]) == [symbol]


@pytest.mark.parametrize("value", ["600000", "116.00700", "sh60000", "BTC-USDT"])
def test_what_names_no_mainland_symbol_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="no symbol of a mainland exchange"):
        compiled("cn_symbol", [], "here")(value)


def test_every_filter_has_an_example_and_a_docstring() -> None:
    assert {name for name, *_ in GOOD} == set(FILTERS)
    assert all(make.__doc__ for make in FILTERS.values())


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_null_stays_null(name: str) -> None:
    arguments = next(arguments for known, arguments, *_ in GOOD if known == name)
    assert applied(compiled(name, arguments, "here"), [None]) == [None]


@pytest.mark.parametrize(
    ("name", "arguments", "value"),
    [
        ("int", [], "8.5"),
        ("int", [], "eight"),
        ("scale", ["2"], "eight"),
        ("scale", ["2"], "NaN"),
        ("map", ["0=SZ"], "7"),
        ("cn_exchange", [], "60000"),
        ("cn_exchange", [], "950110"),
        ("uid", [], "600000"),
        ("cn_exchange", [], "７00000"),
        ("epoch_s", [], "yesterday"),
        ("time", ["%Y-%m-%d"], "03.07.2026"),
        ("iso", [], "soon"),
        ("rfc822", [], "soon"),
        ("join", [], "a"),
    ],
)
def test_what_a_filter_cannot_read_is_an_error(name: str, arguments: list[str], value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        applied(compiled(name, arguments, "here"), [value])


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("decimals", [], "no filter 'decimals'. Did you mean 'decimal'?"),
        ("scale", [], "takes 1 arguments, found 0"),
        ("scale", ["two"], "scale(two)"),
        ("map", ["0"], "write 'from=to'"),
        ("regex", ["("], "regex(()"),
        ("time", ["%Y", "Shanghai"], "is not a time zone"),
    ],
)
def test_a_wrong_filter_is_told_when_the_file_is_read(name: str, arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compiled(name, arguments, "file: fields.last")
    assert said in str(error.value)
    assert str(error.value).startswith("file: fields.last")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**12), max_value=10**12))
def test_scaling_is_exact(number: Any) -> None:
    there = applied(compiled("scale", ["2"], "here"), [str(number)])
    (back,) = applied(compiled("scale", ["-2"], "here"), there)
    assert type(number)(back) == number


TEXTS = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.integers().map(str),
    st.sampled_from(["", "-", "--", " 7 ", "1,234", "1e3", "٣", "2026-01-05", "2026-01-06", "x"]),
)
VALUES = st.one_of(TEXTS, st.integers(), st.booleans(), st.none())
COLUMNS = st.one_of(st.lists(TEXTS), st.lists(VALUES), st.lists(st.integers()), st.lists(st.just("2026-01-05")))


@given(
    values=COLUMNS,
    said=st.sampled_from(
        [("decimal", []), ("int", []), ("scale", ["2"]), ("scale", ["-2"]), ("time", ["%Y-%m-%d"]), ("shift", ["5m"])]
    ),
)
def test_a_whole_column_comes_to_what_its_values_come_to(values: list[Any], said: tuple[str, list[str]]) -> None:
    step = compiled(*said, "here")

    def outcome(make: Any) -> Any:
        try:
            return make()
        except (ValueError, TypeError):
            return "cannot be read"

    one_by_one = outcome(lambda: [None if value is None else step(value) for value in values])
    assert outcome(lambda: applied(step, values)) == one_by_one
