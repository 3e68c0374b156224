"""Documents to raw rows."""

from __future__ import annotations

from typing import Any

import pytest

from tidewire.errors import ConfigError, ParseError
from tidewire.sources.declared.decode import decoder
from tidewire.sources.declared.select import selector

HTML = (
    b"<table><tr><th>Code</th><th>Price</th></tr><tr><td> 600000 </td><td>8.75</td></tr></table>"
    b'<ul><li class="n" data-id="7"><a href="/x">Title</a><i>now</i></li></ul>'
)


@pytest.mark.parametrize(
    ("document", "path", "expected"),
    [
        ({"d": [1, 2]}, "d", [1, 2]),
        ({"d": {"0": "a", "1": "b"}}, "d", ["a", "b"]),
        ({"d": {"a": 1}}, "d", [{"a": 1}]),
        ({"d": {}}, "d", [{}]),
        ({"d": None}, "d", []),
        ([3], None, [3]),
    ],
)
def test_rows_of_json(document: Any, path: str | None, expected: list[Any]) -> None:
    assert selector("json", path, "here")(document) == expected


def test_what_is_no_list_is_refused() -> None:
    with pytest.raises(ParseError, match="expected rows, found '5'"):
        selector("json", "d", "here")({"d": 5})


def test_rows_of_text() -> None:
    select = selector("text", {"regex": r"(?P<code>\w+)=(?P<body>\S*)", "split": {"body": ","}}, "here")
    assert select("a=1,2 b=") == [{"code": "a", "body": ["1", "2"]}, {"code": "b", "body": []}]


def test_rows_of_html() -> None:
    document = decoder("html", "", unzip=False)(HTML)
    assert selector("html", {"table": 0}, "here")(document) == [{"Code": "600000", "Price": "8.75"}]
    node = {"@class": "n", "@data-id": "7", "text": "Titlenow", "a": "Title", "a@href": "/x", "i": "now"}
    assert selector("html", "li.n", "here")(document) == [node]
    assert selector("html", "//li[@data-id]", "here")(document) == [node]
    assert selector("html", "//a/@href", "here")(document) == [{"text": "/x"}]
    with pytest.raises(ParseError, match="found 1 tables"):
        selector("html", {"table": 1}, "here")(document)


def test_a_table_whose_columns_moved_is_refused() -> None:
    moved = HTML.replace(b"<td>8.75</td>", b"<td>8.75</td><td>new</td>")
    with pytest.raises(ParseError, match="2 columns, found a row of 3"):
        selector("html", {"table": 0}, "here")(decoder("html", "", unzip=False)(moved))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("json", {"table": 0}),
        ("json", "a b"),
        ("text", "code"),
        ("text", {"regex": "("}),
        ("text", {"regex": "a"}),
        ("text", {"regex": "(?P<a>b)", "split": {"c": ","}}),
        ("html", {"table": "first"}),
        ("html", "li["),
        ("html", None),
    ],
)
def test_a_wrong_selector_is_told_when_the_file_is_read(kind: str, said: Any) -> None:
    with pytest.raises(ConfigError, match=r"^here"):
        selector(kind, said, "here")


def test_lines_of_text_are_cut() -> None:
    select = selector("json", {"path": "d", "split": ","}, "here")
    assert [list(row) for row in select({"d": ["a,b", "c,d"]})] == [["a", "b"], ["c", "d"]]
    assert [list(row) for row in select({"d": ["a,b", "c"]})] == [["a", "b"], ["c"]]
    assert list(select({"d": []})) == []
    with pytest.raises(ParseError, match="rows of text"):
        select({"d": ["a,b", {"x": 1}]})


@pytest.mark.parametrize("said", [{"path": "d"}, {"path": "d", "split": ""}, {"path": "d", "split": 1}, {"split": ","}])
def test_lines_need_something_between_their_parts(said: Any) -> None:
    with pytest.raises(ConfigError, match="here"):
        selector("json", said, "here")
