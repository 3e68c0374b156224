"""What a file asks for: values written down, and values that are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tidewire.collect.app import nothing_known
from tidewire.errors import ConfigError, TransientError
from tidewire.sources.declared import load_declared
from tidewire.sources.declared.asking import request, templates
from tidewire.sources.declared.values import NAME_MAX, combinations, name_of, said_of, stored_values
from unit.sources.declared.samples import file_of, source_of

STORED = """
version: 1
source: sina.lines
emits: ticker@1
for_each:
  codes: {ref: instrument.instrument, where: {source: eastmoney.listing, kind: [stock, fund]}, chunk: 2}
request:
  get: https://hq.sinajs.cn/list=${codes | cn_symbol('sh600000') | join(',')}
fields: {instrument: code}
"""
SYMBOLS = ["000001.SZ", "600000.SH", "920002.BJ"]


async def known(kind: str, column: str, where: Mapping[str, Sequence[str]]) -> Sequence[str]:
    assert (kind, column) == ("instrument", "instrument")
    assert where == {"source": ["eastmoney.listing"], "kind": ["stock", "fund"]}
    return SYMBOLS


async def test_stored_values_in_lists_of_so_many_spelt_as_the_site_does(tmp_path: Path) -> None:
    declared = source_of(tmp_path, STORED).declared
    asked = list(combinations(declared, await stored_values(declared, {}, known)))
    assert asked == [{"codes": SYMBOLS[:2]}, {"codes": SYMBOLS[2:]}]
    texts = templates(declared, "")
    assert [request(declared, texts, names, {}).url for names in asked] == [
        "https://hq.sinajs.cn/list=sz000001,sh600000",
        "https://hq.sinajs.cn/list=bj920002",
    ]


async def test_a_platform_file_may_name_others(tmp_path: Path) -> None:
    declared = source_of(tmp_path, STORED).declared
    own = {"codes": ["600000.SH"]}
    assert list(combinations(declared, await stored_values(declared, own, nothing_known))) == [{"codes": ["600000.SH"]}]


async def test_while_nothing_is_stored_it_is_told_or_the_default_is_asked_for(tmp_path: Path) -> None:
    declared = source_of(tmp_path, STORED).declared
    with pytest.raises(TransientError, match=r"no instrument rows with kind stock or fund .* is eastmoney.listing run"):
        await stored_values(declared, {}, nothing_known)
    declared = source_of(tmp_path, STORED.replace("chunk: 2", "chunk: 2, default: [600000.SH]")).declared
    assert await stored_values(declared, {}, nothing_known) == {"codes": ["600000.SH"]}


def test_names_of_combinations_are_short_and_stay() -> None:
    assert name_of({}, 3) == ""
    assert name_of({"symbol": "600000.SH", "adjust": 1}, 3) == "600000.SH,1"
    assert name_of({"codes": ["a", "b"]}, 3) == "#3"
    long = name_of({"word": "x" * (NAME_MAX + 1)}, 0)
    assert len(long) == 16
    assert long == name_of({"word": "x" * (NAME_MAX + 1)}, 9)
    assert said_of({"codes": ["a", "b", "c"], "n": 1}) == "codes a to c (3), n 1"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ref: instrument.instrument", "ref: instruments.instrument", "for_each.codes.ref"),
        ("ref: instrument.instrument", "ref: instrument", "instrument has no column ''"),
        ("ref: instrument.instrument", "ref: instrument.instrumen", "Did you mean 'instrument'"),
        ("kind: [", "kid: [", "for_each.codes.where: instrument has no column 'kid'"),
        ("chunk: 2", "chunks: 2", "chunks"),
        ("request:", "since: {start: 30d}\nrequest:", "leave chunk out"),
    ],
)
def test_a_reference_to_nothing_is_told_when_the_file_is_read(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_declared(file_of(tmp_path, STORED.replace(old, new, 1)))
    assert said in str(error.value)
