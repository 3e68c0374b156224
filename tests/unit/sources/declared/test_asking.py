"""Requests of a declared source."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tidewire.errors import ConfigError
from tidewire.sources.declared import load_declared
from tidewire.sources.declared.asking import dated, page_parameters, request, templates
from tidewire.sources.declared.grammar import Paginate
from tidewire.sources.declared.trial import address
from tidewire.sources.declared.values import combinations
from unit.sources.declared.samples import LINES, LIST, file_of, source_of

POST = """
version: 1
source: cninfo.list
emits: ticker@1
for_each: {column: [szse, hke]}
request:
  post: https://www.cninfo.com.cn/new/query
  headers: {Referer: https://www.cninfo.com.cn}
  form: {column: "${column}", tab: fulltext}
paginate: {page: pageNum, size: {pageSize: 30}}
fields: {instrument: code}
"""


def test_a_page_of_a_list(tmp_path: Path) -> None:
    source = source_of(tmp_path, LIST)
    assert source.declared.paginate is not None
    asked = request(
        source.declared, templates(source.declared, ""), {"page": 2}, page_parameters(source.declared.paginate, 1)
    )
    assert address(asked) == "https://push2.eastmoney.com/api/qt/clist/get?np=1&fltt=2&fid=f12&pn=2&pz=100"


def test_names_in_an_address(tmp_path: Path) -> None:
    source = source_of(tmp_path, LINES)
    (names,) = combinations(source.declared, {})
    asked = request(source.declared, templates(source.declared, ""), names, {})
    assert asked.url == "https://hq.sinajs.cn/list=sh600000,sz000001"
    assert asked.headers == {"Referer": "https://finance.sina.com.cn"}


def test_a_form_and_its_page(tmp_path: Path) -> None:
    source = source_of(tmp_path, POST)
    asked = [
        address(request(source.declared, templates(source.declared, ""), names, {"pageNum": 1, "pageSize": 30}))
        for names in combinations(source.declared, {})
    ]
    assert asked == [
        f"POST https://www.cninfo.com.cn/new/query column={column}&tab=fulltext&pageNum=1&pageSize=30"
        for column in ("szse", "hke")
    ]


def test_a_json_body_and_its_page(tmp_path: Path) -> None:
    text = POST.replace('form: {column: "${column}", tab: fulltext}', 'json: {column: "${column}", n: 5}')
    source = source_of(tmp_path, text)
    names = next(combinations(source.declared, {"column": ["third"]}))
    asked = request(source.declared, templates(source.declared, ""), names, {"pageNum": 1})
    assert asked.body == b'{"column":"third","n":5,"pageNum":1}'
    assert asked.headers["Content-Type"] == "application/json"


def test_what_is_asked_for_may_be_said_by_the_day() -> None:
    """At 01:00 on New Year's Day in Shanghai; the server may be in any zone."""
    names = {
        "month": "${now | months(0) | date('%Y-%m')}",
        "next": "${now | months(1) | date('%Y-%m')}",
        "day": "to ${now | date('%Y%m%d')}",
        "size": 5,
    }
    now_us = round(datetime(2026, 12, 31, 17, tzinfo=UTC).timestamp() * 1e6)
    assert dated(names, now_us) == {"month": "2027-01", "next": "2027-02", "day": "to 20270101", "size": 5}


def test_offsets_count_rows() -> None:
    paginate = Paginate(offset="from", start=0, size={"limit": 50})
    assert [page_parameters(paginate, at) for at in (0, 2)] == [{"from": 0, "limit": 50}, {"from": 100, "limit": 50}]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  post:", "  get:", "form, json and body belong to post"),
        ("  form:", "  body: x\n  form:", "write one of form, json and body"),
        ("  post: https://www.cninfo.com.cn/new/query\n", "", "write get or post"),
        ("page: pageNum", "page: pageNum, offset: x", "one of page, offset and cursor"),
        ("page: pageNum", "cursor: c", "cursor and next belong together"),
        ("page: pageNum, size: {pageSize: 30}", "offset: o", "offset needs size"),
        ("form: {", "form: {a: '${x}', ", "request.form.a"),
        ("fields:", "schedule: {every: 5s, cron: '* * * * *'}\nfields:", "every or cron"),
        ("fields:", "schedule: {every: soon}\nfields:", "schedule.every"),
        ("fields:", "schedule: {cron: soon}\nfields:", "is not a cron line"),
        ("fields:", "schedule: {calendar: XSHE}\nfields:", "No calendar 'XSHE'. Did you mean 'XSHG'"),
        ("fields:", "schedule: {between: session}\nfields:", "name one, such as XSHG"),
        ("[szse, hke]", "[szse, '${today}']", "for_each.column: ${today}: no such name"),
        ("fields:", "schedule: {between: noon}\nfields:", "is not a daily window"),
        ("fields:", "schedule: {jitter: '5'}\nfields:", "is no share"),
    ],
)
def test_a_request_that_cannot_be_made_is_told_when_the_file_is_read(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = file_of(tmp_path, POST.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        load_declared(path)
    assert said in str(error.value)
