"""The product with sealed rows: answers, books and a restart are as without; a replay makes the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer

from integration.kit import Api, Eager, api, audited, balanced, binance, idle, loaded, replayed, running, tables, until
from tidewire.errors import StoreError
from tidewire.runtime import sealing
from tidewire.runtime.cold_commands import cold_check, cold_list
from tidewire.runtime.config import ColdSection, Loaded
from tidewire.runtime.platform import make_store
from tidewire.runtime.reading import Reading
from tidewire.sandbox.config import SandboxConfig
from tidewire.sandbox.server import Sandbox
from tidewire.store.sealed import manifests

BARS = 400
COLUMNS = ("source", "instrument", "interval", "open_time", "open", "high", "low", "close", "volume", "frame")


def sealed(configuration: Loaded, table: str = "kline_v1") -> pl.DataFrame:
    """The rows in the files that the manifest lists, read by Polars alone."""
    objects = sealing.objects_of(configuration.config, configuration.data_dir)
    files = [file.name for found in manifests(objects) if found.table == table for file in found.files]
    if not files:
        return pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.String))
    return pl.concat([pl.read_parquet(configuration.data_dir / name, hive_partitioning=False) for name in files])


def ordered(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(COLUMNS).sort(COLUMNS)


async def bars(client: Api, **more: Any) -> list[dict[str, Any]]:
    """Finished bars of history: a time range that no new bar comes into."""
    return (await client.get("/v1/kline", limit=10_000, interval="1m", **more))["data"]


async def test_sealed_while_collecting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sealing, "LOOK_S", 0.2)
    sandbox = Sandbox(SandboxConfig(symbols=("BTCUSDT", "ETHUSDT"), rate=20.0, history_hours=12))
    await sandbox.start()
    try:
        klines = {"symbols": ["BTCUSDT", "ETHUSDT"], "intervals": ["1m"], "history": BARS}
        sources = [binance(sandbox.url, ["BTCUSDT"], ("trade",), kline=klines)]
        plain = loaded(tmp_path, sources)
        configuration = loaded(tmp_path, sources, cold=ColdSection(enabled=True, after="2s", unit_rows=200))
        async with running(plain, Eager()) as platform, api(platform) as client:

            async def all_there() -> bool:
                return len(await bars(client)) >= 2 * BARS - 2

            await until(all_there, "all bars of history", poll_s=0.1)
            end = (await bars(client, symbol="BTCUSDT"))[-2]["open_time"]
            before = await bars(client, end=end)
        async with running(configuration, Eager()) as platform, api(platform) as client:
            await until(lambda: sealed(configuration).height >= BARS, "rows are sealed while collecting", poll_s=0.1)
            assert platform.health().checks["cold"] == "ok"
            assert await bars(client, end=end) == before
            balanced(await audited(client))
        async with running(configuration, Eager()) as platform, api(platform) as client:
            assert await bars(client, end=end) == before
            balanced(await audited(client, frames="true"))
            await idle(platform)
    finally:
        await sandbox.stop()
    await _at_rest(configuration, plain, tmp_path, capfd)


async def _at_rest(configuration: Loaded, plain: Loaded, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Replay, the commands, and what is said when files are missing or the tier is not named."""
    data = configuration.data_dir
    hot, cold = tables(data), sealed(configuration)
    assert cold.height >= BARS
    again = await replayed(data, tmp_path / "again", configuration)
    both = pl.concat([ordered(hot["kline_v1"]), ordered(cold).cast(ordered(hot["kline_v1"]).schema)])
    assert both.sort(COLUMNS).equals(ordered(again["kline_v1"]))
    books = await Reading(data, configuration).audit({})
    assert (books["difference"], books["sound"]) == (0, True)
    with pytest.raises(StoreError, match=r"rows of .* are sealed.*Set cold.enabled"):
        await make_store(plain.config, data).open()
    config = tmp_path / "tidewire.yaml"
    config.write_text("data_dir: data\ncold: {enabled: true}\n")
    cold_list(config, None, as_json=True)
    cold_check(config, None, as_json=True)
    capfd.readouterr()
    victim = next(iter(sorted((data / "cold").rglob("*.parquet"))))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(typer.Exit) as left:
        cold_check(config, None, as_json=False)
    assert left.value.exit_code == 3
    assert victim.name in capfd.readouterr().err
