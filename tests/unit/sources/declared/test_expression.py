"""Expressions: paths, filters, constants and templates over columns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.errors import ConfigError
from tidewire.sources.declared.expression import Lines, RowError, Rows, expression, template

ROWS = [
    {"code": "600000", "price": "8.75", "tags": ["a", "b"], "deep": {"id": 7}},
    {"code": "000001", "price": "-", "tags": [], "deep": {}},
]
NAMES = {"symbol": "X", "doc": {"data": {"code": "Y"}}, "since": 1_783_382_400_000_000}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("code", ["600000", "000001"]),
        ("nothing", [None, None]),
        ("tags[1]", ["b", None]),
        ("deep.id", [7, None]),
        ("length(tags)", [2, 0]),
        ("price | decimal", ["8.75", None]),
        ("price | decimal | scale(2)", ["875", None]),
        ("deep.id || code", [7, "000001"]),
        ("nothing | default('none')", ["none", "none"]),
        ("deep.id | default(code)", [7, "000001"]),
        ("deep.id | cn_shares(code)", ["700", None]),
        ("deep.id | cn_shares('688001')", [7, None]),
        ("deep.id | cn_shares(doc.data.code)", ["700", None]),
        ("deep.id | before(since)", [True, None]),
        ("deep.id | before(nothing)", [None, None]),
        ("code | map('600000=a|b', '*=c')", ["a|b", "c"]),
        ("= Federal Reserve", ["Federal Reserve", "Federal Reserve"]),
        ("${row.code}.SH", ["600000.SH", "000001.SH"]),
        ("${row.price | decimal}x", ["8.75x", None]),
        ("${symbol}", ["X", "X"]),
        ("${doc.data.code}-${row.code | cut(0, 2)}", ["Y-60", "Y-00"]),
        ("${since | date('%Y%m%d')}", ["20260707", "20260707"]),
        (5, [5, 5]),
    ],
)
def test_what_an_expression_makes(text: Any, expected: list[Any]) -> None:
    rows = Rows(ROWS, NAMES)
    assert expression(text, "here", ["symbol", "since"]).of(rows) == expected
    assert not rows.wrong


def test_a_row_that_cannot_be_read_is_told_and_the_others_go_on() -> None:
    rows = Rows(ROWS)
    assert expression("price | int", "here").of(Rows([{"price": "8"}, *ROWS])) == [8, None, None]
    made = expression("code | map('600000=SH')", "here").of(rows)
    assert made == ["SH", None]
    assert rows.wrong == [RowError(1, "code | map('600000=SH'): '000001' is not among 600000")]


def test_what_is_needed_may_be_a_dash_but_not_absent() -> None:
    rows = Rows([{"price": "-"}, {"amount": "8"}, {"price": None}, {"price": "8"}])
    assert expression("price | needed | decimal", "here").of(rows) == [None, None, None, "8"]
    assert rows.wrong == [RowError(place, "price | needed | decimal: not in the row") for place in (1, 2)]


def test_rows_that_are_no_mappings_have_no_fields() -> None:
    assert expression("code", "here").of(Rows([1, None, "x"])) == [None, None, None]
    assert expression("[0]", "here").of(Rows([[1], "x"])) == [1, None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("code | decimals", "no filter 'decimals'"),
        ("code |", "nothing stands on one side"),
        ("code | map('a", "does not end"),
        ("code | Map", "is no filter"),
        ("[", "does not end"),
        ("a b", "is not a JMESPath"),
        ("${symbols}", "Did you mean 'symbol'?"),
        ("${row.code", "without its '}'"),
        ("${row.{a}}", "braces inside"),
        ("code | default", "default takes one argument"),
        ("code | needed(code)", "needed takes no argument"),
        ("code | cn_shares", "cn_shares takes one argument"),
        ("code | befor(code)", "no filter 'befor'. Did you mean 'before'?"),
        ("code | cut('0' '2')", "comma"),
    ],
)
def test_a_wrong_expression_is_told_when_the_file_is_read(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        expression(text, "file: fields.last", ["symbol"])
    assert said in str(error.value)
    assert str(error.value).startswith("file: fields.last")


def test_a_template_of_a_request_knows_no_rows() -> None:
    assert template("a-${symbol}", "here", ["symbol"], rows=False).once({"symbol": 5}) == "a-5"
    assert template("plain", "here").once({}) == "plain"
    with pytest.raises(ConfigError, match="Valid: symbol"):
        template("${row.code}", "here", ["symbol"], rows=False)
    with pytest.raises(ValueError, match="not a whole number"):
        template("${symbol | int}", "here", ["symbol"], rows=False).once({"symbol": "8.5"})


@given(st.lists(st.text(alphabet="a1,-", max_size=8), min_size=1), st.integers(0, 4))
def test_cut_lines_are_lists_of_their_parts(texts: list[str], place: int) -> None:
    lines, parts = Lines.of(texts, ","), [text.split(",") for text in texts]
    assert list(lines) == parts
    assert len(lines) == len(texts)
    assert lines[-1] == parts[-1]
    assert list(lines[0:2]) == parts[0:2]
    made = expression(f"[{place}]", "here").of(Rows(lines))
    assert made == [part[place] if place < len(part) else None for part in parts]


def test_a_line_that_is_not_there() -> None:
    with pytest.raises(IndexError):
        Lines.of(["a,b"], ",")[1]
    assert expression("[0]", "here").of(Rows(["no list", ["a"]])) == [None, "a"]


def test_what_does_not_look_at_rows_is_made_once_and_is_wrong_for_all() -> None:
    calls: list[Any] = []

    class Names(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            calls.append(name)
            return super().get(name, default)

    rows = Rows(ROWS, Names(symbol="600000"))
    assert expression("${symbol | cn_exchange}", "here", ["symbol"]).of(rows) == ["SH", "SH"]
    assert calls == ["symbol"]
    rows = Rows(ROWS, {"symbol": "x"})
    assert expression("a ${symbol | int} b", "here", ["symbol"]).of(rows) == [None, None]
    assert [each.place for each in rows.wrong] == [0, 1]
    mixed = expression("${symbol | default(code)}", "here", ["symbol"])
    assert mixed.of(Rows(ROWS, {"symbol": None})) == ["600000", "000001"]
