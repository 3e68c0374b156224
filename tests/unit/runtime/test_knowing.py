"""What sources may ask the store: values that others brought."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidewire.errors import NotFound
from tidewire.journal import Kind
from tidewire.runtime.knowing import StoredValues
from unit.runtime.kit import INFO, Run, Stepping, fill, opened
from unit.sources.binance.samples import REST

ENDED = INFO.replace(b'"NKNUSDT","status":"TRADING"', b'"NKNUSDT","status":"BREAK"')


async def test_values_of_the_latest_rows_each_once_and_sorted(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, store):
        known = StoredValues(store)
        assert list(await known("instrument", "instrument", {"source": ["binance"]})) == []
        run = Run(journal, store)
        await run.start()
        url = f"{REST}exchangeInfo"
        await fill(journal, [(INFO, url, Kind.DATA), (ENDED, url, Kind.DATA)], Stepping())
        await run.drained()
        both = ["BTC-USDT.BINANCE", "NKN-USDT.BINANCE"]
        assert await known("instrument", "instrument", {}) == both
        assert await known("instrument", "instrument", {"source": ["binance"], "kind": ["spot", "fund"]}) == both
        assert await known("instrument", "quote", {}) == ["USDT"]
        # The second was traded once, and is not any more.
        assert await known("instrument", "instrument", {"status": ["trading"]}) == both[:1]
        assert await known("instrument", "instrument", {"source": ["other"]}) == []
        with pytest.raises(NotFound):
            await known("instruments", "instrument", {})
        await run.stop()
