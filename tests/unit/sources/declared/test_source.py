"""Files checked and compiled, and replies to columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidewire.errors import ConfigError, ParseError
from tidewire.sources.declared import load_declared
from unit.sources.declared.samples import FIRST, LINES, LIST, SINA, SUSPENDED, file_of, page, source_of

AT_US = 1_783_409_700_000_000


def test_a_page_becomes_columns(tmp_path: Path) -> None:
    source = source_of(tmp_path, LIST)
    read = source.read(msgspec.json.encode(page([FIRST, SUSPENDED], 2)), {}, AT_US)
    assert read.columns["instrument"] == ["000001.SZ", "000003.SZ"]
    assert read.columns["last"] == ["10.47", None]
    assert read.columns["volume"] == [80522100, None] or read.columns["volume"] == ["80522100", None]
    assert read.columns["amount"] == ["840465778.05", None]
    assert read.columns["event_time"] == [1_783_409_697_000_000, 1_783_382_400_000_000]
    assert read.columns["public_at"] == [AT_US, AT_US]
    assert (read.raw, read.filtered, read.wrong, read.action) == (2, 0, {}, None)


def test_keys_that_appear_change_nothing_and_keys_that_go_are_null(tmp_path: Path) -> None:
    source = source_of(tmp_path, LIST)
    more = {**page([{**FIRST, "f999": 1}], 1), "dlmkts": ""}
    less = page([{name: value for name, value in FIRST.items() if name != "f6"}], 1)
    assert source.read(msgspec.json.encode(more), {}, AT_US).columns["last"] == ["10.47"]
    assert source.read(msgspec.json.encode(less), {}, AT_US).columns["amount"] == [None]


def test_a_list_in_disguise_is_a_list(tmp_path: Path) -> None:
    reply = {"rc": 0, "data": {"total": 2, "diff": {"0": FIRST, "1": SUSPENDED}}}
    read = source_of(tmp_path, LIST).read(msgspec.json.encode(reply), {}, AT_US)
    assert read.columns["instrument"] == ["000001.SZ", "000003.SZ"]


@pytest.mark.parametrize(("reply", "action"), [({"rc": 102, "data": None}, "retry"), ({"rc": 0, "data": None}, "stop")])
def test_rules_of_the_file_are_asked_before_rows_are_looked_for(tmp_path: Path, reply: Any, action: str) -> None:
    assert source_of(tmp_path, LIST).read(msgspec.json.encode(reply), {}, AT_US).action == action


def test_a_block_page_is_never_data(tmp_path: Path) -> None:
    source = source_of(tmp_path, LIST)
    with pytest.raises(ParseError, match="expected JSON"):
        source.read(b"<html>verify you are human</html>", {}, AT_US)
    assert source.refused(200, "text/html; charset=utf-8") == "back_off"
    assert source.refused(200, "application/json") is None
    assert [source.refused(status, "") for status in (403, 502, 404)] == ["rotate", "retry", "fail"]


def test_a_value_that_cannot_be_read_is_told_by_row_and_column(tmp_path: Path) -> None:
    odd = {**FIRST, "f12": "12345", "f124": "soon", "f5": 8.5}
    read = source_of(tmp_path, LIST).read(msgspec.json.encode(page([FIRST, odd], 2)), {}, AT_US)
    assert set(read.wrong) == {1}
    assert set(read.wrong[1]) == {"instrument", "event_time", "volume"}
    assert "not a whole number" in read.wrong[1]["volume"]


def test_text_in_another_charset_and_rows_left_out(tmp_path: Path) -> None:
    read = source_of(tmp_path, LINES).read(SINA.encode("gb18030"), {"list": "x"}, AT_US)
    assert read.columns["instrument"] == ["600000.SH"]
    assert read.columns["volume"] == ["22910251"]
    assert read.columns["status"] == ["trading"]
    assert read.columns["event_time"] == [1_783_044_809_000_000]
    assert (read.raw, read.filtered, list(read.places)) == (2, 1, [0])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("paginate:", "paginates:", "paginates: no such key. Did you mean 'paginate'?"),
        ("emits: ticker@1", "emits: tickers@1", "emits: No record type 'tickers'. Did you mean 'ticker'?"),
        ("emits: ticker@1", "emits: ticker@2", "write ticker@1"),
        ("  last: f2", "  lasts: f2", "fields.lasts: ticker has no such column to fill. Did you mean 'last'?"),
        ("  last: f2", "  source: f2", "fields.source: ticker has no such column"),
        ("f2 | decimal", "f2 | decimals", "fields.last: no filter 'decimals'"),
        ("data == null", "data ==", "errors[1].when"),
        ("do: stop", "do: halt", "errors[1].do"),
        ("select: data.diff", "select: {table: 0}", "select: of json"),
        ("select: data.diff", "decode: jsn", "decode: no decoder 'jsn'. Did you mean 'json'?"),
        ("select: data.diff", "decode: {json: gbkk}", "no charset 'gbkk'"),
        ("unique: [instrument]", "unique: [code]", "expect.unique: 'code' is not among the fields"),
        ("source: eastmoney.list", "source: eastmoney.lists", "must be the file's name"),
        ("  get: https", "  put: https", "request.put: no such key"),
        ("np: 1", 'np: "${pages}"', "request.params.np: ${pages}: no such name. Did you mean 'page'?"),
        ("rate: 100/s", "rate: fast", "limits.rate"),
        ("version: 1", "version: 2", "version"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "eastmoney.list.yaml"
    path.write_text(LIST.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_declared(path)
    assert said in str(error.value)
    assert str(error.value).startswith(str(path))


def test_a_column_that_is_needed_must_be_filled(tmp_path: Path) -> None:
    text = "\n".join(line for line in LIST.splitlines() if "instrument:" not in line).replace(
        ", unique: [instrument]", ""
    )
    with pytest.raises(ConfigError, match="ticker needs 'instrument'"):
        load_declared(file_of(tmp_path, text))
