"""The command line: what it prints, what it exits with."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import aiohttp
import duckdb
import pytest

from tidewire import __version__
from unit.runtime.commands import ended, in_process, line, started, tidewire
from unit.runtime.kit import Run, fill, messages, opened

CONFIG = """
data_dir: data
listen: {port: 0}
sources:
  - source: {type: market, name: binance}
    api: {base_url: "http://127.0.0.1:1"}
    collectors:
      trade: {symbols: [BTCUSDT]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and the data of a short run; not to be changed."""
    folder = tmp_path_factory.mktemp("made")

    async def make() -> None:
        async with opened(folder / "data", segment_bytes=30_000) as (journal, store):
            run = Run(journal, store)
            await run.start()
            await fill(journal, messages(300), run.now)
            await run.drained()
            await run.stop()

    asyncio.run(make())
    (folder / "tidewire.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(made, tmp_path / "own")


def test_version_and_help() -> None:
    done = tidewire("version")
    assert (done.code, done.out.strip()) == (0, __version__)
    done = tidewire("--help")
    assert done.code == 0
    for command in ("demo", "up", "check", "sources", "sandbox", "query", "replay", "audit", "journal", "version"):
        assert command in done.out


@pytest.mark.parametrize("arguments", [["upp"], ["check", "--jsn"], ["query"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, *arguments)
    assert done.code == 2
    assert "Usage" in done.err


def test_check(made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    done = in_process(capsys, "check")
    assert done.code == 0
    assert "good. Sources: binance." in done.out
    done = in_process(capsys, "check", made / "tidewire.yaml", "--json")
    assert (done.code, done.json()["sources"], done.json()["data_dir"]) == (0, ["binance"], str(made / "data"))


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("listen:", "lisen:", ["tidewire.yaml.lisen: no such key. Did you mean 'listen'?"]),
        ("symbols:", "symbls:", ["collectors.trade.symbls: no such key. Did you mean 'symbols'?"]),
        ("name: binance", "name: binanec", ["no source 'binanec'. Did you mean 'binance'?"]),
        ("port: 0", "port: none", ["tidewire.yaml.listen.port: Expected `int`, got `str`."]),
        ("data_dir: data", "bus: {type: nats, prefix: a b}", ["bus.prefix: 'a b' cannot begin a subject"]),
        (
            "data_dir: data",
            "failover: {prices: {order: [binance, binanceusmd]}}",
            ["failover.prices: no source 'binanceusmd'. Did you mean 'binanceusdm'?"],
        ),
        ("data_dir: data", "store: {type: duckbd}", ["store.type: no store 'duckbd'. Did you mean 'duckdb'?"]),
    ],
)
def test_a_typo_in_the_configuration(
    tmp_path: Path,
    old: str,
    new: str,
    parts: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tidewire.yaml").write_text(CONFIG.replace(old, new))
    done = in_process(capsys, "check")
    assert done.code == 2
    for part in parts:
        assert part in done.err
    assert "Traceback" not in done.err


def test_files_of_the_plugin_directory_are_checked_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tidewire.yaml").write_text(CONFIG)
    (tmp_path / "plugins").mkdir()
    good, bad = tmp_path / "plugins" / "coin.yaml", tmp_path / "plugins" / "usd.yaml"
    good.write_text("source: {type: market, name: binancecoinm}\n")
    done = in_process(capsys, "check", "--json")
    assert (done.code, done.json()["sources"]) == (0, ["binance", "binancecoinm"])
    bad.write_text("source: {type: market, name: binanceusmd}\n")
    done = in_process(capsys, "check")
    assert done.code == 2
    assert "usd.yaml: source.name: no source 'binanceusmd'. Did you mean 'binanceusdm'?" in done.err
    done = in_process(capsys, "sources", "--json")
    listed = {entry["name"]: (entry["about"], entry["status"]) for entry in done.json()["installed"]}
    assert listed["coin.yaml"] == ("source file of binancecoinm", "not running")
    assert listed["usd.yaml"][0].startswith("did not load: ")
    assert listed["usd.yaml"][1] == "failed"
    bad.unlink()
    (tmp_path / "plugins" / "broken.py").write_text("def (")
    done = in_process(capsys, "check")
    assert done.code == 2
    assert "broken.py: did not load: SyntaxError" in done.err
    done = in_process(capsys, "reload")
    assert done.code == 2
    assert "what is there is loaded at its start" in done.err


def test_what_a_stranger_sees_of_a_typo(tmp_path: Path) -> None:
    (tmp_path / "tidewire.yaml").write_text(CONFIG.replace("listen:", "lisen:"))
    done = tidewire("up", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "tidewire.yaml.lisen: no such key. Did you mean 'listen'?" in done.err
    assert "Traceback" not in done.err


def test_a_configuration_that_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("check", "up"):
        done = in_process(capsys, command, "nowhere.yaml")
        assert (done.code, "nowhere.yaml: no such file" in done.err) == (2, True)


def test_query(made: Path) -> None:
    done = tidewire("query", "trade", "--symbol", "btcusdt", "--limit", "3", "--order", "asc", "--json", cwd=made)
    assert done.code == 0
    rows = done.json()
    assert [row["instrument"] for row in rows] == ["BTC-USDT.BINANCE"] * 3
    assert rows[0]["price"] == "61837.63"
    assert [row["event_time"] for row in rows] == sorted(row["event_time"] for row in rows)
    done = tidewire("query", "quote", "--limit", "2", "--data", made / "data")
    assert done.code == 0
    assert "NKN-USDT.BINANCE" in done.out
    assert "no platform is running on it" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["query", "traed"], 1, "Did you mean 'trade'?"),
        (["query", "trade", "--where", "side"], 2, "write name=value"),
        (["query", "trade", "--where", "sied=buy"], 2, "'side'"),
        (["query", "trade", "--start", "yesterdayish"], 2, "yesterdayish"),
        (["query", "trade", "--data", "nowhere"], 1, "nowhere: no such data directory"),
        (["journal", "ls", "--data", "nowhere"], 1, "nowhere"),
    ],
)
def test_questions_that_cannot_be_answered(
    made: Path,
    arguments: list[str],
    code: int,
    part: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(made)
    done = in_process(capsys, *arguments)
    assert (done.code, done.out) == (code, "")
    assert part in done.err
    assert "Traceback" not in done.err


def test_audit(own: Path) -> None:
    done = tidewire("audit", "--json", cwd=own)
    assert done.code == 0
    books = done.json()
    assert (books["difference"], books["in_flight_frames"], books["frames"]) == (0, 0, [])
    assert books["totals"]["received"] == 301
    with duckdb.connect(str(own / "data" / "tidewire.duckdb")) as connection:
        ((frame,),) = connection.execute("SELECT min(frame) FROM trade_v1").fetchall()
        connection.execute(f"DELETE FROM trade_v1 WHERE frame = {frame}")
    done = tidewire("audit", cwd=own)
    assert done.code == 3
    assert re.search(r"trade/binance \S+: the books say \d+ stored, the table holds \d+", done.out)
    assert re.search(r"trade/binance \S+: 1 missing", done.out)
    assert f"  missing: frame {frame} ordinal 0, instrument=BTC-USDT.BINANCE, trade_id=" in done.out
    assert "difference 1, in flight 0 frames" in done.out


def test_audit_of_a_part(own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    with duckdb.connect(str(own / "data" / "tidewire.duckdb")) as connection:
        connection.execute("UPDATE quote_v1 SET bid_size = 77 WHERE frame = (SELECT min(frame) FROM quote_v1)")
        ((frame,),) = connection.execute("SELECT frame FROM quote_v1 WHERE bid_size = 77").fetchall()
    assert in_process(capsys, "audit").code == 0, "the sums agree"
    done = in_process(capsys, "audit", "--type", "quote", "--type", "trade", "--totals", "--frames")
    assert done.code == 3
    head, *rows = done.out.splitlines()
    assert head.split()[:3] == ["source", "type", "received"]
    assert [row.split()[:2] for row in rows[:2]] == [["binance", "quote"], ["binance", "trade"]]
    assert f"  changed: frame {frame} ordinal 0, instrument=NKN-USDT.BINANCE, sequence=" in done.out
    assert "; differs in bid_size" in done.out
    assert in_process(capsys, "audit", "--type", "trade", "--frames").code == 0
    assert in_process(capsys, "audit", "--source", "nobody", "--json").json()["lines"] == []
    assert in_process(capsys, "audit", "--start", "2030-01-01", "--json").json()["lines"] == []
    done = in_process(capsys, "audit", "--start", "yesterday")
    assert (done.code, "'yesterday' is not a time" in done.err) == (2, True)


def test_journal(own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    done = in_process(capsys, "journal", "ls", "--json")
    assert done.code == 0
    assert done.json()["accepted"] == 300
    segment, *_, last = done.json()["segments"]
    assert (segment["first"], last["last"]) == (1, 300)
    done = in_process(capsys, "journal", "verify", "--json")
    assert (done.code, done.json()["frames"], done.json()["findings"]) == (0, 300, [])
    path = own / "data" / "journal" / segment["file"]
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    done = in_process(capsys, "journal", "verify", "--json")
    assert done.code == 3
    assert done.json()["findings"]


def test_sources(made: Path) -> None:
    done = tidewire("sources", "--json", cwd=made)
    assert done.code == 0
    (binance,) = [entry for entry in done.json()["installed"] if entry["name"] == "binance"]
    assert binance["status"] == "not running"
    assert "Binance spot" in binance["about"]


def test_replay(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    done = in_process(capsys, "replay", "--into", tmp_path / "again", "--json")
    assert done.code == 0
    told = done.json()
    assert (told["frames"], told["difference"]) == (300, 0)
    first = in_process(capsys, "query", "trade", "--limit", "1000", "--json")
    again = in_process(capsys, "query", "trade", "--limit", "1000", "--json", "--data", tmp_path / "again")
    assert again.json() == first.json()
    done = in_process(capsys, "replay", "--into", tmp_path / "again")
    assert (done.code, "holds a store that is not empty" in done.err) == (2, True)


async def test_sandbox() -> None:
    async with started("sandbox", "--json", "--until-eof", "--symbols", "2") as process:
        url = (await line(process, "{")).partition('"url":"')[2].partition('"')[0]
        async with aiohttp.ClientSession() as session, session.get(f"{url}/api/v3/exchangeInfo") as reply:
            assert len((await reply.json())["symbols"]) == 2
        async with aiohttp.ClientSession() as session:
            for path in ("fapi", "dapi"):
                async with session.get(f"{url}/{path}/v1/exchangeInfo") as reply:
                    assert len((await reply.json())["symbols"]) == 3
        assert process.stdin is not None
        process.stdin.close()
        assert await ended(process) == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--fault", "dorp=1"], "Did you mean 'drop'?"),
        (["--fault", "drop"], "write name=value"),
        (["--recording", "nowhere.gz"], "no such file"),
    ],
)
def test_a_sandbox_that_cannot_be(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, "sandbox", *arguments)
    assert done.code == 2
    assert part in done.err


def test_gaps(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, "gaps", "ls", "--data", made / "data", "--json")
    assert done.code == 0
    listed = done.json()
    counted = {(line["record_type"], line["state"]): line["gaps"] for line in listed["summary"]}
    assert counted["trade", "open"] > 0
    assert counted["quote", "unfillable"] > 0
    assert len(listed["gaps"]) == 20
    newest = [row["event_time"] for row in listed["gaps"]]
    assert newest == sorted(newest, reverse=True)
    done = in_process(capsys, "gaps", "ls", "--data", made / "data", "--type", "trade", "--state", "open")
    assert done.code == 0
    assert str(counted["trade", "open"]) in done.out
    assert "quote" not in done.out
    done = in_process(capsys, "gaps", "ls", "--data", made / "data", "--state", "opn")
    assert done.code == 2
    assert "Did you mean 'open'?" in done.err


def test_gaps_are_filled_by_a_running_platform_only(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, "gaps", "fill", "--data", made / "data")
    assert done.code == 2
    assert "gaps are filled while one does" in done.err
