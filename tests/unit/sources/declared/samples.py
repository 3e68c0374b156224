"""Files that declare sources, as people write them, and what the sites answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tidewire.collect import Frame
from tidewire.journal import Kind, Origin
from tidewire.sources.declared import Source, load_declared

LIST = """
version: 1
source: eastmoney.list
emits: ticker@1
request:
  get: https://push2.eastmoney.com/api/qt/clist/get
  params: {np: 1, fltt: 2, fid: f12}
paginate: {page: pn, start: 1, size: {pz: 100}, total: data.total, parallel: 2, max: 100}
select: data.diff
fields:
  instrument: "${row.f12}.${row.f12 | cn_exchange}"
  last: f2 | decimal
  open: f17 | decimal
  high: f15 | decimal
  low: f16 | decimal
  pre_close: f18 | decimal
  volume: f5 | int | scale(2)
  amount: f6 | decimal
  event_time: f124 | epoch_s
limits: {rate: 100/s, concurrency: 4, share: eastmoney.com}
errors:
  - {when: "rc != `0`", do: retry}
  - {when: "data == null", do: stop}
  - {when: {content_type: text/html}, do: back_off}
expect: {rows: data.total, unique: [instrument]}
"""
"""The paged list of a site that counts lots and writes '-' where there is no price."""

LINES = r"""
version: 1
source: sina.lines
emits: ticker@1
for_each: {list: ["sh600000,sz000001"]}
request:
  get: https://hq.sinajs.cn/list=${list}
  headers: {Referer: https://finance.sina.com.cn}
decode: {text: gb18030}
select: {regex: '^var hq_str_(?P<code>\w+)="(?P<body>[^"]*)"', split: {body: ","}}
where: length(body) > `30`
fields:
  instrument: "${row.code | cut(2)}.${row.code | cut(0, 2) | upper}"
  last: body[3] | decimal | positive
  pre_close: body[2] | decimal | positive
  volume: body[8] | decimal
  event_time: "join(' ', body[30:32]) | time('%Y-%m-%d %H:%M:%S')"
  status: body[32] | map('00=trading', '*=suspended')
"""

FIRST = {
    "f2": 10.47,
    "f5": 805221,
    "f6": 840465778.05,
    "f12": "000001",
    "f15": 10.51,
    "f16": 10.35,
    "f17": 10.46,
    "f18": 10.5,
    "f124": 1783409697,
}
SUSPENDED = dict.fromkeys(FIRST, "-") | {"f12": "000003", "f18": 2.71, "f124": 1783382400}
SINA = (
    'var hq_str_sh600000="浦发银行,8.690,8.700,8.750,8.820,8.660,8.750,8.760,22910251,200620309.000,53000,8.750,115800,'
    "8.740,222600,8.730,176400,8.720,407500,8.710,220000,8.760,44900,8.770,163400,8.780,192200,8.790,272000,8.800,"
    '2026-07-03,10:13:29,00";\nvar hq_str_sz000003="";\n'
)


def page(rows: list[dict[str, Any]], total: int) -> dict[str, Any]:
    return {"rc": 0, "rt": 6, "data": {"total": total, "diff": rows}}


def source_of(folder: Path, text: str) -> Source:
    return load_declared(file_of(folder, text))


def file_of(folder: Path, text: str) -> Path:
    name = next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("source:"))
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def frame(payload: Any, request: str = "GET https://example.com", sequence: int = 1) -> Frame:
    body = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    wall_ns = 1_783_409_700_000_000_000 + sequence * 1_000_000_000
    return Frame(sequence, wall_ns, sequence, Kind.DATA, Origin("x", "rows", request), b"", body)
