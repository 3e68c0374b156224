"""AKShare and efinance, made for the real sites, read what is true from the sandbox with only the transport changed."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidewire.sandbox.server import Sandbox, SandboxConfig

if any(importlib.util.find_spec(name) is None for name in ("akshare", "efinance")):
    pytest.skip("akshare and efinance are not installed", allow_module_level=True)

CLIENT = Path(__file__).parent / "china_client.py"
DEADLINE_S = 240.0
CONFIG = SandboxConfig(
    symbols=("BTCUSDT",),
    rate=1.0,
    history_hours=1,
    china_stocks=240,
    session_at="2026-12-01T11:45:00+08:00",  # quotes stand still until 13:00
)
Columns = dict[str, list[Any]]


async def ask() -> dict[str, Any]:
    sandbox = Sandbox(CONFIG)
    await sandbox.start()
    try:
        command = (sys.executable, str(CLIENT), sandbox.url)
        pipe = asyncio.subprocess.PIPE
        client = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
        try:
            async with asyncio.timeout(DEADLINE_S):
                out, err = await client.communicate()
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()
        assert client.returncode == 0, err.decode()[-4_000:]
        columns = sandbox.china.truth()
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        true = {row["exchange"] + row["code"]: row for row in rows}
        return {"said": msgspec.json.decode(out), "true": true, "requests": sandbox.china.facts()["requests"]}
    finally:
        await sandbox.stop()


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    return asyncio.run(ask())


def stocks(answers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """True rows of stocks by code, which is theirs alone; indices left out."""
    indices = ("SH000", "SZ399", "BJ899")
    return {row["code"]: row for key, row in answers["true"].items() if not key.startswith(indices)}


def compare(said: Columns, true: dict[str, dict[str, Any]], names: dict[str, str], lot: int) -> None:
    """Each row of a client is the true one: prices and amounts to the last digit, volumes in its unit."""
    traded = 0
    for at, code in enumerate(said[names["code"]]):
        row = true[code[-6:]]
        if row["open"] is None:
            continue
        traded += 1
        for word in ("last", "open", "high", "low", "pre_close", "amount"):
            assert float(said[names[word]][at]) == row[word], (code, word)
        assert abs(float(said[names["volume"]][at]) * lot - row["volume"]) <= lot // 2, code
    assert traded > 200


@pytest.mark.parametrize(
    ("answer", "lot", "count"), [("ak_spot_em", 100, 240), ("ak_spot_sina", 1, None), ("ef_quotes", 100, 240)]
)
def test_the_whole_market(answers, answer, lot, count):
    theirs = {"last": "最新价", "open": "今开", "high": "最高", "low": "最低", "amount": "成交额", "volume": "成交量"}
    code, before = ("股票代码", "昨日收盘") if answer == "ef_quotes" else ("代码", "昨收")
    said, true = answers["said"][answer], stocks(answers)
    compare(said, true, {**theirs, "code": code, "pre_close": before}, lot)
    listed = sum(row["status"] not in ("delisted", "unlisted") for row in true.values())
    assert len(said[code]) == len(set(said[code])) == (count or listed)


@pytest.mark.parametrize("answer", ["ak_hist_em", "ef_history"])
def test_daily_bars_of_eastmoney(answers, answer):
    said, row = answers["said"][answer], answers["true"]["SH600519"]
    assert said["日期"][-1] == "2026-12-01"
    assert len(said["日期"]) == 22
    theirs = {"开盘": "open", "收盘": "last", "最高": "high", "最低": "low", "成交额": "amount"}
    assert {name: float(said[name][-1]) for name in theirs} == {name: row[word] for name, word in theirs.items()}
    assert abs(int(said["成交量"][-1]) * 100 - row["volume"]) <= 50  # lots
    assert float(said["收盘"][-2]) == row["pre_close"]


def test_weekly_bars_begin_and_end_with_their_days(answers):
    weeks, days = answers["said"]["ak_weeks_em"], answers["said"]["ak_hist_em"]
    assert len(weeks["日期"]) == 5
    assert weeks["收盘"][0] == days["收盘"][days["日期"].index(weeks["日期"][0])]
    assert weeks["开盘"][-1] == days["开盘"][days["日期"].index("2026-11-30")]


@pytest.mark.parametrize(
    ("answer", "key", "lot"), [("ak_hist_tx", "SH600519", 100), ("ak_hist_tx_star", "SH688981", 1)]
)
def test_daily_bars_of_tencent(answers, answer, key, lot):
    said, row = answers["said"][answer], answers["true"][key]
    assert said["date"][-1] == "2026-12-01"
    words = {"open": "open", "close": "last", "high": "high", "low": "low"}
    assert {name: float(said[name][-1]) for name in words} == {name: row[word] for name, word in words.items()}
    assert abs(float(said["volume"][-1]) - row["volume"]) <= lot // 2  # AKShare makes shares of both
    assert float(said["amount"][-1]) == pytest.approx(row["amount"], abs=100)


@pytest.mark.parametrize(
    ("answer", "names", "lot"),
    [
        ("ak_minutes_em", ("时间", "开盘", "收盘", "最高", "最低", "成交量", "成交额"), 100),
        ("ak_five_minutes_em", ("时间", "开盘", "收盘", "最高", "最低", "成交量", "成交额"), 100),
        ("ak_five_minutes_sina", ("day", "open", "close", "high", "low", "volume", "amount"), 1),
    ],
)
def test_minute_bars_add_up_to_the_day(answers, answer, names, lot):
    said, row = answers["said"][answer], answers["true"]["SZ300750"]
    today = [at for at, time in enumerate(said[names[0]]) if time.startswith("2026-12-01")]
    first, last, high, low, volume, amount = ([float(said[name][at]) for at in today] for name in names[1:])
    assert [first[0], last[-1], max(high), min(low)] == [row[word] for word in ("open", "last", "high", "low")]
    assert sum(volume) * lot == pytest.approx(row["volume"], abs=lot // 2 * len(today))
    assert sum(amount) == pytest.approx(row["amount"], abs=0.01)


def test_lists_of_the_exchanges(answers):
    true = stocks(answers)
    there = {code for code, row in true.items() if row["status"] not in ("delisted", "unlisted")}
    sse = answers["said"]["ak_list_sse"]["证券代码"]
    szse = answers["said"]["ak_list_szse"]["A股代码"]
    assert set(sse) == {code for code in there if code.startswith("688")}
    assert set(szse) == {code for code in there if true[code]["exchange"] == "SZ"}


def test_nothing_was_answered_that_was_not_asked(answers):
    assert answers["requests"]["eastmoney"]["clist/get"] == 3 + 4  # efinance asks for its first page twice
    assert answers["requests"]["sina"]["pages"] == 3
