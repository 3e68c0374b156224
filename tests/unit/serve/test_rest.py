"""REST: every format exact, paging, every refusal, types defined later."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.openapi.models import OpenAPI
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tidewire import telemetry
from tidewire.errors import StatementTimeout, StoreBusy, StoreError
from tidewire.records import MarketRecord, market, ops
from tidewire.records.record import forget
from tidewire.records.roles import Price, Text
from tidewire.serve import params
from tidewire.serve.cursor import Cursors, digest
from tidewire.serve.params import AuditRequest
from tidewire.serve.problems import CODES, Refused
from tidewire.serve.render import choose, csv_rows
from tidewire.serve.v1 import _INLINE_ROWS
from unit.serve.harness import BTC, ETH, START, WATERMARK, asking, kline, moment, quote, rows_of, serving, trades

TRADE = market.Trade.type


async def test_json_has_rows_and_meta() -> None:
    async with serving() as served:
        served.store.put(TRADE, trades(3))
        answer = await served.http.get("/v1/trade")
        assert answer.headers["content-type"] == "application/json"
        body = answer.json()
        assert body["data"][0]["price"] == "61837.63"
        assert body["data"][0]["size"] == "0.02000001"
        assert body["data"][0]["event_time"] == "2026-01-05T00:00:00.000000Z"
        meta = body["meta"]
        assert meta["type"] == "trade"
        assert meta["watermark"] == meta["snapshot"] == "2026-01-06T00:00:00.000000Z"
        assert (meta["rows"], meta["next_cursor"], meta["sources"]) == (3, None, ["binance"])
        assert meta["units"]["price"] == "quote asset or yuan"
        assert answer.headers["x-tidewire-watermark"] == meta["watermark"]


@pytest.mark.parametrize("kind", [market.Trade.type, market.OrderBook.type, market.Kline.type, ops.Gap.type])
@pytest.mark.parametrize("count", [0, 2, _INLINE_ROWS + 1])
async def test_arrow_and_parquet_are_the_frame(kind: Any, count: int) -> None:
    book = {"depth": 2, "bid_prices": [Decimal("1.5"), Decimal(1)], "bid_sizes": [Decimal("0.1"), Decimal(3)]}
    book |= {"ask_prices": [Decimal("1.000000000001")], "ask_sizes": []}
    gap = {"record_type": "trade", "gap_id": "1", "cause": "grid", "state": "open", "until_time": moment(9)}
    made = {
        "trade": lambda n: {"trade_id": str(n), "price": Decimal("0.000000000001"), "size": Decimal(n)},
        "order_book": lambda n: {"sequence": n, **book},
        "kline": lambda n: kline(n, final=True),
        "gap": lambda n: {**gap, "frame": n},
    }[kind.name]
    rows = rows_of(kind, [made(n) for n in range(count)])
    async with serving() as served:
        served.store.put(kind, rows)
        for form, read in (("arrow", _read_arrow), ("parquet", _read_parquet)):
            answer = await served.http.get(f"/v1/{kind.name}", params={"format": form, "limit": 5000})
            table = read(answer.content)
            expected = rows.sort("event_time", "frame", "ordinal")
            assert_frame_equal(pl.DataFrame(pl.from_arrow(table.replace_schema_metadata(None))), expected)
            meta = msgspec.json.decode(table.schema.metadata[b"tidewire"])
            assert (meta["type"], meta["rows"]) == (kind.name, count)
            assert table.schema.field("source").metadata[b"role"] == b"text"
            assert not table.schema.field("source").nullable


def _read_arrow(content: bytes) -> pa.Table:
    return pa.ipc.open_stream(content).read_all()


def _read_parquet(content: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(content))


async def test_ndjson_and_csv() -> None:
    async with serving() as served:
        served.store.put(TRADE, trades(2, side=None))
        lines = (await served.http.get("/v1/trade?format=ndjson")).text.splitlines()
        assert [msgspec.json.decode(line)["trade_id"] for line in lines] == ["1000", "1001"]
        answer = await served.http.get("/v1/trade", headers={"accept": "text/csv"})
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        back = pl.read_csv(answer.content, infer_schema=False)
        assert back["price"].to_list() == ["61837.63", "61838.63"]
        assert back["side"].to_list() == [None, None]
        assert back.columns == list(TRADE.fields)


def test_csv_cells_are_no_formulas() -> None:
    rows = pl.DataFrame({"a": ["=1+1", "+x", "-y", "@z", "\tq", "plain", None, "a=b"], "n": [-1, 2, 3, 4, 5, 6, 7, 8]})
    back = pl.read_csv(csv_rows(rows))
    assert back["a"].to_list() == ["'=1+1", "'+x", "'-y", "'@z", "'\tq", "plain", None, "a=b"]
    assert back["n"].to_list()[0] == -1


def test_csv_lists_are_json() -> None:
    rows = pl.DataFrame({"p": [[Decimal("1.50"), Decimal(2)], []]}, schema={"p": pl.List(pl.Decimal(38, 12))})
    assert pl.read_csv(csv_rows(rows))["p"].to_list() == ['["1.5","2"]', "[]"]


async def test_numbers_as_floats() -> None:
    async with serving() as served:
        served.store.put(TRADE, trades(1))
        row = (await served.http.get("/v1/trade?numbers=float")).json()["data"][0]
        assert row["price"] == 61837.63


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_meet_each_row_once(order: str) -> None:
    async with serving() as served:
        served.store.put(TRADE, trades(10))
        url: str | None = f"/v1/trade?limit=3&order={order}&symbol=BTCUSDT&start=2026-01-05"
        seen: list[str] = []
        while url:
            answer = await served.http.get(url)
            body = answer.json()
            seen += [row["trade_id"] for row in body["data"]]
            url = answer.links.get("next", {}).get("url")
            assert (url is None) == (body["meta"]["next_cursor"] is None)
            # Rows that come meanwhile are not in the snapshot of the first page.
            late = trades(1, trade_id="late", seconds=1.5).with_columns(ingested_at=pl.lit(WATERMARK + timedelta(1)))
            served.store.put(TRADE, late.cast(TRADE.schema))
        assert seen == sorted([str(1000 + n) for n in range(10)], reverse=order == "desc")
        assert {query.snapshot for query in served.store.queries[2::2]} == {WATERMARK}


async def test_a_cursor_is_bound_to_its_filters() -> None:
    async with serving() as served:
        served.store.put(TRADE, trades(10))
        cursor = (await served.http.get("/v1/trade?limit=3&symbol=BTCUSDT")).json()["meta"]["next_cursor"]
        good = await served.http.get(
            "/v1/trade", params={"symbol": BTC, "cursor": cursor, "limit": 4, "fields": "price"}
        )
        assert [row["price"] for row in good.json()["data"]] == [f"{61840 + n}.63" for n in range(4)]
        for path, params in (
            ("/v1/trade", {"symbol": ETH}),
            ("/v1/trade", {}),
            ("/v1/trade", {"symbol": BTC, "start": "2026-01-01"}),
            ("/v1/trade", {"symbol": BTC, "order": "desc"}),
            ("/v1/quote", {"symbol": BTC}),
        ):
            answer = await served.http.get(path, params={**params, "cursor": cursor})
            assert (answer.status_code, answer.json()["code"]) == (400, "cursor_mismatch"), (path, params)
        other = await served.http.get("/v1/trade", params={"symbol": BTC, "cursor": cursor, "snapshot": "2026-01-05"})
        assert other.json()["code"] == "invalid_query"


@given(st.data())
def test_no_changed_cursor_is_accepted(data: st.DataObject) -> None:
    cursors = Cursors(b"secret")
    text = cursors.write(digest(["x"]), START, (1, 2, 3))
    assert cursors.read(text, digest(["x"])).after == (1, 2, 3)
    assert cursors.read(text, digest(["x"])).snapshot == START
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("ABCxyz019-_=é \n"))
    changed = text[:place] + letter + text[place + 1 :]
    if changed != text:
        with pytest.raises(Refused) as refused:
            cursors.read(changed, digest(["x"]))
        assert refused.value.code == "cursor_invalid"
    with pytest.raises(Refused):
        Cursors(b"other").read(text, digest(["x"]))


@given(st.text(max_size=80))
def test_any_text_is_no_cursor(text: str) -> None:
    with pytest.raises(Refused):
        Cursors(b"secret").read(text, b"")


@pytest.mark.parametrize(
    ("path", "status", "code", "says"),
    [
        ("/v1/trade?simbol=x", 400, "unknown_parameter", "Did you mean 'symbol'?"),
        ("/v1/trade?price=1", 400, "unknown_parameter", "role price"),
        ("/v1/trade?side=bye", 400, "invalid_query", "Did you mean 'buy'?"),
        ("/v1/trade?symbol=000001", 400, "ambiguous_instrument", "000001.SH, 000001.SZ"),
        ("/v1/trade?symbol=nope", 400, "unknown_instrument", "Did you mean 'BTCUSDT'?"),
        ("/v1/trade?symbol=BTCUSDT,", 400, "invalid_query", "empty value"),
        ("/v1/quarantined?symbol=BTCUSDT", 400, "unknown_parameter", None),
        ("/v1/trade?start=1767571200000", 400, "invalid_query", "outside 1990 to 2100"),
        ("/v1/trade?end=1767571200000000000", 400, "invalid_query", "ts_unit"),
        ("/v1/trade?start=yesterday", 400, "invalid_query", "RFC 3339"),
        ("/v1/trade?start=2026-01-05T00:00:00", 400, "invalid_query", "with a zone"),
        ("/v1/trade?start=2026-02-30", 400, "invalid_query", "not a time"),
        ("/v1/trade?start=2026-01-06&end=2026-01-05", 400, "invalid_query", "before end"),
        ("/v1/trade?limit=0", 400, "invalid_query", "from 1 to 100,000"),
        ("/v1/trade?limit=100001", 400, "invalid_query", "follow next_cursor"),
        ("/v1/trade?limit=1&limit=2", 400, "invalid_query", "given 2 times"),
        ("/v1/trade?fields=prize", 400, "invalid_query", "Did you mean 'price'?"),
        ("/v1/trade?fields=price,price", 400, "invalid_query", "each column once"),
        ("/v1/trade?order=down", 400, "invalid_query", "Valid: asc, desc"),
        ("/v1/trade?numbers=decimal", 400, "invalid_query", "text, float"),
        ("/v1/trade?revisions=none", 400, "invalid_query", "latest, all"),
        ("/v1/trade?resample=5x", 400, "invalid_query", "Valid: 1s, 1m"),
        ("/v1/trade?resample=1M", 400, "invalid_query", "not valid"),
        ("/v1/kline?resample=5m", 400, "invalid_query", "interval=1m&resample=5m"),
        ("/v1/kline?interval=3m&resample=5m", 400, "invalid_query", "Valid: 15m"),
        ("/v1/quote?resample=5m", 400, "unknown_parameter", "no parameter 'resample'"),
        ("/v1/trade?cursor=abc", 400, "cursor_invalid", "Begin again"),
        ("/v1/trade?format=xml", 406, "not_acceptable", "json (application/json)"),
        ("/v1/trade/latest?order=asc", 400, "unknown_parameter", "no parameter 'order'"),
        ("/v1/trad", 404, "not_found", "Did you mean 'trade'?"),
        ("/v1/types/trad", 404, "not_found", "Did you mean 'trade'?"),
        ("/v1/sources?x=1", 400, "unknown_parameter", "no parameters"),
        (
            "/v1/audit?frame=true",
            400,
            "unknown_parameter",
            "no parameter 'frame'. Did you mean 'frames'? Valid: source",
        ),
        ("/v1/audit?frames=yes", 400, "invalid_query", "'yes' is not valid. Valid: false, differing, true"),
        ("/v1/audit?type=trad", 404, "not_found", "Did you mean 'trade'?"),
        ("/v1/audit?start=2026-01-05&end=2026-01-04", 400, "invalid_query", "must be before end"),
        ("/v1/stream", 426, "upgrade_required", "WebSocket"),
        ("/nowhere", 404, "not_found", "/v1/types"),
        ("/v1/trade/nowhere", 404, "not_found", "/v1/types"),
    ],
)
async def test_refusals_say_what_is_valid(path: str, status: int, code: str, says: str | None) -> None:
    async with asking() as http:
        answer = await http.get(path)
        if says is None:  # quarantined has an instrument column; the spelling is resolved
            assert answer.status_code == 200
            return
        body = answer.json()
        assert (answer.status_code, body["code"]) == (status, code)
        assert says in body["detail"]
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(body) == {
            *("type", "title", "status", "detail", "instance", "code", "request_id", "trace_id", "retryable"),
        }
        assert body["status"] == status
        assert body["instance"] == path.partition("?")[0]
        assert answer.headers["x-request-id"] == body["request_id"]
        assert code in CODES


@pytest.mark.parametrize(
    ("error", "status", "code", "retryable"),
    [
        (StoreBusy("every reader is in use"), 503, "store_busy", True),
        (StatementTimeout("longer than 30 s"), 504, "statement_timeout", True),
        (StoreError("/data/secret.db: broken"), 500, "store_error", False),
        (RuntimeError("/data/secret.db: broken"), 500, "internal", False),
    ],
)
async def test_failures_keep_their_causes_inside(error: Exception, status: int, code: str, retryable: bool) -> None:
    async with serving() as served:
        served.store.fail = error
        answer = await served.http.get("/v1/trade")
        body = answer.json()
        assert (answer.status_code, body["code"], body["retryable"]) == (status, code, retryable)
        assert ("retry-after" in answer.headers) == retryable
        assert "secret" not in answer.text


async def test_ids_are_taken_over() -> None:
    async with serving() as served:
        trace = "0af7651916cd43dd8448eb211c80319c"
        headers = {"x-request-id": "mine-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        body = (await served.http.get("/v1/nope", headers=headers)).json()
        assert (body["request_id"], body["trace_id"]) == ("mine-1", trace)
        odd = (await served.http.get("/v1/nope", headers={"x-request-id": "a b\x7f"})).json()
        assert odd["request_id"] != "a b\x7f"


async def test_methods() -> None:
    async with serving() as served:
        answer = await served.http.post("/v1/trade")
        assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (
            405,
            "method_not_allowed",
            "GET, HEAD",
        )
        head = await served.http.head("/v1/trade")
        assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("accept", "form", "expected"),
    [
        (None, None, "json"),
        ("*/*", None, "json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", None, "json"),
        ("text/csv", None, "csv"),
        ("text/*", None, "csv"),
        ("*/*, text/csv", None, "csv"),
        ("application/x-ndjson;q=0.5, application/vnd.apache.parquet", None, "parquet"),
        ("application/json;q=0.1, text/csv;q=0.2", None, "csv"),
        ("application/json;q=0, */*;q=0.1", None, "json"),
        ("text/csv", "arrow", "arrow"),
    ],
)
def test_format_choice(accept: str | None, form: str | None, expected: str) -> None:
    assert choose(accept, form) == expected


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0", "text/csv;q=x", ""])
def test_no_format_fits(accept: str) -> None:
    if not accept:
        assert choose(accept, None) == "json"
        return
    with pytest.raises(Refused, match=r"text/csv") as refused:
        choose(accept, None)
    assert refused.value.status == 406


@pytest.mark.parametrize(
    ("text", "unit", "seconds"),
    [
        ("2026-01-05", "us", 0),
        ("2026-01-05T00:00:01Z", "us", 1),
        ("2026-01-05t08:00:01.5+08:00", "us", 1.5),
        ("2026-01-05T08:00:00 08:00", "us", 0),
        ("1767571200000000", "us", 0),
        ("1767571200000", "ms", 0),
        ("1767571201", "s", 1),
        ("1767571200500000999", "ns", 0.5),
        ("2026-01-05T00:00:00.123456789Z", "us", 0.123456),
    ],
)
def test_times(text: str, unit: str, seconds: float) -> None:
    assert params.time_of({"start": [text]}, "start", unit) == moment(seconds)


async def test_filters_reach_the_store() -> None:
    async with serving() as served:
        served.store.put(TRADE, trades(4))
        for path, ids in (
            ("side=buy", ["1001", "1003"]),
            ("symbol=ETHUSDT", []),
            ("symbol=ETHUSDT&symbol=BTC/USDT", ["1000", "1001", "1002", "1003"]),
            ("symbol=BTC*,ETHUSDT", ["1000", "1001", "1002", "1003"]),
            ("instrument=BTC-USDT.BINANCE&trade_id=1002,1003", ["1002", "1003"]),
            ("source=okx", []),
            ("start=2026-01-05T00:00:01Z&end=2026-01-05T00:00:03Z", ["1001", "1002"]),
            ("as_of=2026-01-05T00:00:00Z", ["1000"]),
            ("snapshot=2026-01-05T00:00:01Z", ["1000"]),
        ):
            body = (await served.http.get(f"/v1/trade?{path}")).json()
            assert [row["trade_id"] for row in body["data"]] == ids, path


async def test_resampling_answers_with_bars() -> None:
    class Bars:
        async def read(self, query: Any) -> Any:
            from tidewire.store.protocol import Result

            rows = rows_of(market.Kline.type, [kline(0, final=True)] if query.interval == "5m" else [])
            rows = rows if query.type is TRADE else rows_of(ops.Gap.type, [])
            return Result(rows.select(query.fields or rows.columns), START, START)

    async with serving(store=Bars()) as served:
        body = (await served.http.get("/v1/trade?resample=5m&fields=open_time,close")).json()
        assert body["data"] == [{"open_time": "2026-01-05T00:00:00.000000Z", "close": "100"}]
        assert body["meta"]["type"] == "kline"


async def test_gaps_are_told_with_the_rows() -> None:
    gap = {"record_type": "trade", "cause": "sequence", "state": "open", "until_time": moment(60), "missing": 3}
    rows = rows_of(
        ops.Gap.type,
        [
            gap | {"gap_id": "in", "seconds": 30},
            gap | {"gap_id": "filled", "seconds": 40, "state": "filled"},
            gap | {"gap_id": "before", "seconds": 1, "until_time": moment(9)},
            gap | {"gap_id": "other", "seconds": 30, "record_type": "quote"},
            gap | {"gap_id": "after", "seconds": 5000, "until_time": moment(5001)},
        ],
    )
    async with serving() as served:
        served.store.put(ops.Gap.type, rows)
        query = {"start": "2026-01-05T00:00:10Z", "end": "2026-01-05T00:10:00Z"}
        meta = (await served.http.get("/v1/trade", params=query)).json()["meta"]
        assert [hole["start"] for hole in meta["gaps"]] == ["2026-01-05T00:00:30.000000Z"]
        assert (meta["gaps"][0]["cause"], meta["gaps"][0]["missing"], meta["gaps_left_out"]) == ("sequence", 3, 0)
        assert len((await served.http.get("/v1/gaps?state=open&type=trade")).json()["data"]) == 3
        assert (await served.http.get("/v1/trade", params=query | {"format": "csv"})).headers["x-tidewire-gaps"] == "1"
        assert (await served.http.get("/v1/quarantine?state=open&type=trade")).json()["data"] == []


async def test_latest_is_the_newer_of_cache_and_store() -> None:
    kind = market.Kline.type
    async with serving() as served:
        served.store.put(kind, rows_of(kind, [kline(0, final=True), kline(1, final=True, instrument=ETH)]))
        served.cache.tables["kline"] = rows_of(kind, [kline(1, final=False)])
        body = (await served.http.get("/v1/kline/latest?interval=1m")).json()
        assert [(row["instrument"], row["final"]) for row in body["data"]] == [(BTC, False), (ETH, True)]
        assert "server_time" in body["meta"]
        stored = (await served.http.get("/v1/kline/latest?as_of=2026-01-06")).json()["data"]
        assert [row["final"] for row in stored] == [True, True]
        some = (await served.http.get("/v1/kline/latest?symbol=ETHUSDT&fields=close&limit=1")).json()["data"]
        assert some == [{"close": "101"}]


async def test_a_type_defined_later_is_served() -> None:
    async with serving() as served:
        assert (await served.http.get("/v1/tide_gauge")).status_code == 404

        class TideGauge(MarketRecord):
            """How high the water stands."""

            place = Text("Where.", key=True, choices=("north", "south"))
            level = Price("Height of the water.", unit="m")

        try:
            kind = TideGauge.type
            served.store.put(kind, rows_of(kind, [{"place": "north", "level": Decimal("1.25")}]))
            body = (await served.http.get("/v1/tide_gauge?place=north")).json()
            assert (body["data"][0]["level"], body["meta"]["units"]["level"]) == ("1.25", "m")
            document = (await served.http.get("/openapi.json")).json()
            assert document["components"]["schemas"]["TideGauge"]["properties"]["level"]["format"] == "decimal"
            names = [p["name"] for p in document["paths"]["/v1/tide_gauge"]["get"]["parameters"]]
            assert {"place", "symbol", "source", "cursor"} <= set(names)
            assert "tide_gauge" in [t["name"] for t in (await served.http.get("/v1/types")).json()["data"]]
            assert "/v1/tide_gauge" in (await served.http.get("/docs")).text
            reference = await served.http.get("/v1/types/tide_gauge", headers={"accept": "text/markdown"})
            assert "How high the water stands." in reference.text
        finally:
            forget("tide_gauge")


async def test_openapi_is_valid_and_tells_the_truth() -> None:
    async with serving() as served:
        document = (await served.http.get("/openapi.json")).json()
        OpenAPI.model_validate(document)
        assert document["openapi"].startswith("3.1")
        operations = [operation for what in document["paths"].values() for operation in what.values()]
        ids = [operation["operationId"] for operation in operations]
        assert len(set(ids)) == len(ids)
        for reference in _references(document):
            target: Any = document
            for step in reference.removeprefix("#/").split("/"):
                target = target[step]
        for path, what in document["paths"].items():
            if "get" not in what or "{" in path:
                continue
            assert (await served.http.get(path)).status_code == 200, path
            for parameter in what["get"].get("parameters", ()):
                wrong = await served.http.get(path, params={parameter["name"]: "\x00"})
                assert wrong.json().get("code") != "unknown_parameter", (path, parameter["name"])


async def test_an_audit_is_asked_for_by_source_type_and_hour() -> None:
    asked: list[AuditRequest] = []

    async def audit(request: AuditRequest) -> dict[str, Any]:
        asked.append(request)
        return {"difference": 0}

    async with serving(audit=audit) as served:
        for query in (
            "",
            "?source=binance,okx&type=trades&type=gap&frames=differing",
            "?start=2026-01-05T01:30:00Z&end=1767666600&ts_unit=s&frames=true",
        ):
            assert (await served.http.get(f"/v1/audit{query}")).json() == {"data": {"difference": 0}}
    start, end = datetime(2026, 1, 5, 1, 30, tzinfo=UTC), datetime(2026, 1, 6, 2, 30, tzinfo=UTC)
    assert asked == [
        AuditRequest(),
        AuditRequest(("binance", "okx"), ("trade", "gap"), frames="differing"),
        AuditRequest(start=start, end=end, frames="all"),
    ]


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in _references(value)]
    return [found for value in node for found in _references(value)] if isinstance(node, list) else []


async def test_the_pages_around() -> None:
    async def audit(_: AuditRequest) -> dict[str, Any]:
        return {"difference": 0}

    async with serving(sources=lambda: [{"name": "binance"}], audit=audit) as served:
        assert (await served.http.get("/v1/sources")).json() == {"data": [{"name": "binance"}]}
        assert (await served.http.get("/v1/audit")).json() == {"data": {"difference": 0}}
        assert (await served.http.get("/")).json()["links"]["docs"] == "/docs"
        page = await served.http.get("/", headers={"accept": "text/html"})
        assert "<script" not in page.text
        assert "/v1/gaps" in page.text
        before = telemetry.value(
            "tidewire_http_request_duration_seconds_count", route="/v1/{name}", method="GET", status="200"
        )
        await served.http.get("/v1/trade")
        assert (await served.http.get("/metrics")).headers["content-type"].startswith("text/plain")
        after = telemetry.value(
            "tidewire_http_request_duration_seconds_count", route="/v1/{name}", method="GET", status="200"
        )
        assert after == before + 1


async def test_a_large_answer_does_not_hold_up_others() -> None:
    async with serving() as served:
        kind = market.Quote.type
        served.store.put(kind, rows_of(kind, [quote(n) for n in range(_INLINE_ROWS + 10)]))
        answer = await served.http.get("/v1/quotes?limit=100000")
        assert len(answer.json()["data"]) == _INLINE_ROWS + 10
