"""``tidewire backfill``: a list, or a bar until all is loaded."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tidewire.runtime import backfill_command
from unit.runtime.commands import in_process

ROW: dict[str, Any] = {
    "source": "binance",
    "collector": "kline",
    "record_type": "kline",
    "instrument": "BTC-USDT.BINANCE",
    "series": "1m",
    "state": "loading",
    "start": "2026-01-01T00:00:00+00:00",
    "end": "2026-01-02T00:00:00+00:00",
    "oldest": "2026-01-01T12:00:00+00:00",
    "shards_done": 1,
    "shards_total": 2,
    "rows": 720,
    "rows_total": 1_440,
    "percent": 50.0,
    "eta_seconds": 90.0,
    "error": None,
}
DONE = {**ROW, "state": "done", "shards_done": 2, "rows": 1_440, "percent": 100.0, "eta_seconds": 0.0}
FAILED = {**ROW, "state": "failed", "instrument": "OLD-USDT.BINANCE", "eta_seconds": None, "error": "not listed"}


class Answers:
    """What the platform says, one answer after the other; the last one stands."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.left = list(answers)
        self.asked = 0

    async def backfill(self) -> list[dict[str, Any]]:
        self.asked += 1
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


def shown(answers: Answers, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, str]:
    """What the command prints, and what its bar drew."""
    drawn = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backfill_command, "POLL_S", 0.0)
        patch.setattr(backfill_command, "reading_of", lambda config, data: answers)
        patch.setattr(backfill_command, "console", Console(file=drawn, force_terminal=True, width=120))
        done = in_process(capsys, "backfill", *options)
    assert done.code == 0, done.err
    return done.out, drawn.getvalue()


def test_the_list_is_asked_for_once(capsys: pytest.CaptureFixture[str]) -> None:
    answers = Answers([ROW, FAILED])
    out, drawn = shown(answers, capsys)
    assert answers.asked == 1
    assert "BTC-USDT.BINANCE" in out
    assert "not listed" in out
    assert drawn == ""


def test_a_bar_is_drawn_until_nothing_loads_any_more(capsys: pytest.CaptureFixture[str]) -> None:
    answers = Answers([ROW, FAILED], [{**ROW, "state": "waiting"}, FAILED], [DONE, FAILED])
    out, drawn = shown(answers, capsys, "--follow", "--json")
    assert answers.asked == 3
    assert '"percent":100.0' in out.replace(" ", "")
    assert "3 of 4 shards, 2,160 rows, 0 s left" in drawn


def test_it_needs_a_platform_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, "backfill", "--data", tmp_path / "data")
    assert done.code != 0
    assert "No platform runs on" in done.err
    assert "tidewire up" in done.err
