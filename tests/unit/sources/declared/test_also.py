"""Several record types of one reply: decoded once, each with its own fields and rows of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tidewire.collect import Assembler
from tidewire.errors import ConfigError
from tidewire.records.instrument import uid
from tidewire.sources.declared import load_declared, run_tests
from tidewire.sources.declared.parse import DeclaredParser
from unit.sources.declared.samples import LINES, SINA, file_of, frame, source_of

AT_US = 1_783_409_700_000_000
QUOTE = """
also:
  - emits: quote@1
    where: to_number(body[6]) < to_number(body[7])
    fields:
      instrument: "${row.code | cut(2)}.${row.code | cut(0, 2) | upper}"
      sequence: "join(' ', body[30:32]) | time('%Y-%m-%d %H:%M:%S')"
      bid_price: body[6] | decimal | positive
      ask_price: body[7] | decimal | positive
  - emits: order_book@1
    fields:
      instrument: "${row.code | cut(2)}.${row.code | cut(0, 2) | upper}"
      sequence: "= 1"
      depth: 5
      valid: "= true"
      bid_prices: "[body[11], body[10], body[13], body[12]] | levels(0)"
      bid_sizes: "[body[11], body[10], body[13], body[12]] | levels(1)"
      ask_prices: "[body[21], body[20]] | levels(0)"
      ask_sizes: "[body[21], body[20]] | levels(1)"
"""
AUCTION = SINA.replace("sh600000", "sz000002").replace("8.750,8.760,", "8.750,8.750,").partition("\n")[0] + "\n"
TEXT = SINA + AUCTION


def test_one_reply_gives_rows_of_each_type(tmp_path: Path) -> None:
    read = source_of(tmp_path, LINES + QUOTE).read(TEXT.encode("gb18030"), {"list": "x"}, AT_US)
    assert read.columns["instrument"] == ["600000.SH", "000002.SZ"]
    quote, book = read.also
    # What `where` of the file leaves out is in no type; places are those of the reply.
    assert (list(read.places), list(quote.places), list(book.places)) == ([0, 2], [0], [0, 2])
    assert (read.filtered, quote.filtered, book.filtered) == (1, 1, 0)
    assert quote.columns["ask_price"] == ["8.760"]
    assert quote.columns["event_time"] == [AT_US]
    assert book.columns["bid_prices"][0] == ["8.750", "8.740"]
    assert book.columns["bid_sizes"][0] == ["53000", "115800"]


UNIT = """
expect: {unit: 30}
"""


def test_sizes_of_a_row_whose_volume_is_in_another_unit_are_not_trusted(tmp_path: Path) -> None:
    low_and_high = "fields:\n  low: body[5] | decimal\n  high: body[4] | decimal\n  amount: body[9] | decimal\n"
    text = LINES.replace("fields:\n", low_and_high, 1) + QUOTE + UNIT
    source = source_of(tmp_path, text)
    lots = SINA.replace("22910251", "229102").replace("sh600000", "sz000009").partition("\n")[0]
    read = source.read(f"{AUCTION}{SINA}{lots}\n".encode("gb18030"), {"list": "x"}, AT_US)
    quote, book = read.also
    why = {"unit": "amount / volume 875.681, expected 8.66 to 8.82"}
    assert not read.wrong  # what is said of the volume itself is a matter of the checks
    assert quote.columns["instrument"] == ["600000.SH", "000009.SZ"]
    assert quote.wrong == {1: why}
    assert book.wrong == {2: why}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (QUOTE + UNIT, "expect.unit: it needs amount, low, high among the fields"),
        (UNIT, "expect.unit: it needs amount, low, high among the fields"),
    ],
)
def test_a_unit_needs_prices_and_something_else(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        source_of(tmp_path, LINES + more)


def test_every_row_of_every_type_is_accounted_for(tmp_path: Path) -> None:
    assembler = Assembler("j" * 8, {"x": DeclaredParser(source_of(tmp_path, LINES + QUOTE))})
    assembler.start({})
    batches = assembler.step([frame(TEXT.encode("gb18030"), sequence=1)])
    assert {batch.type.name: len(batch.rows) for batch in batches if len(batch.rows)} == {
        "ticker": 2,
        "quote": 1,
        "order_book": 2,
    }
    fates: dict[str, int] = {}
    for batch in batches:
        for fate, count in batch.fates.items():
            fates[fate.fate] = fates.get(fate.fate, 0) + count
    assert fates == {"received": 7, "filtered": 2}
    book = next(batch.rows for batch in batches if batch.type.name == "order_book")
    assert [str(price) for price in book["ask_prices"][0]] == ["8.760000000000"]
    assert book["valid"].to_list() == [True, True]


def test_a_test_of_a_file_names_the_rows_of_each_type(tmp_path: Path) -> None:
    case = """
tests:
  - name: one
    encode: gb18030
    responses: ['var hq_str_sh600000="浦,8.69,8.7,8.75,8.82,8.66,8.75,8.76,1,2,53000,8.75,0,0,0,0,0,0,0,0,44900,8.76,\
0,0,0,0,0,0,0,0,2026-07-03,10:13:29,00";']
    rows: [{instrument: 600000.SH}]
    also:
      quote: [{bid_price: 8.75}]
      order_book: [{bid_prices: [8.75], bid_sizes: [53000], ask_prices: [8.76]}]
"""
    (verdict,) = run_tests(source_of(tmp_path, LINES + QUOTE + case))
    assert verdict.problems == []
    (verdict,) = run_tests(source_of(tmp_path, LINES + QUOTE + case.replace("[8.76]}", "[8.77]}")))
    assert verdict.problems == ["also.order_book[0].ask_prices: [8.77] expected, ['8.76'] came"]
    (verdict,) = run_tests(source_of(tmp_path, LINES + QUOTE + case.replace("[{bid_price: 8.75}]", "[]")))
    assert verdict.problems == ["0 also.quote expected, 1 came"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("emits: quote@1", "emits: quotes@1", "also[0]: emits: No record type 'quotes'"),
        ("also:", "also:\n  - {emits: ticker@1, fields: {instrument: = x.SH}}", "also: ticker is made twice"),
        ("      bid_price:", "      bid:", "also[0]: fields.bid: quote has no such column"),
        ("      depth: 5\n", "", "also[1]: fields: order_book needs 'depth'"),
        ("    where:", "    when:", "also[0].when: no such key"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_declared(file_of(tmp_path, LINES + QUOTE.replace(old, new, 1)))
    assert said in str(error.value)


def test_the_stable_id_follows_from_the_instrument(tmp_path: Path) -> None:
    text = """
version: 1
source: site.listing
emits: instrument@1
request: {get: "https://example.com/"}
fields:
  instrument: "${row.code}.SH"
  native: code
  kind: = stock
  status: = trading
"""
    reply: list[dict[str, Any]] = [{"code": "600000"}, {"code": None}]
    read = source_of(tmp_path, text).rows(reply, {}, AT_US)
    assert read.columns["uid"] == [uid("SH", "600000"), None]
