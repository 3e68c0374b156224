"""``tidewire quarantine``, on files at rest and through a running platform."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from unit.runtime.commands import in_process, line, started
from unit.runtime.kit import INFO, Run, fill, opened, trade
from unit.runtime.test_cli import CONFIG
from unit.runtime.test_quarantine import ETH_INFO, UNREADABLE, eth, place
from unit.sources.binance.samples import WS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows in quarantine: three of a symbol that is known by now, one without a price, a torn frame."""
    folder = tmp_path_factory.mktemp("made")

    async def make() -> None:
        async with place(folder / "data") as here:
            await here.feed(INFO, trade(1), eth(5), eth(6), eth(7), trade(2, p="0"), UNREADABLE, ETH_INFO)

    asyncio.run(make())
    (folder / "tidewire.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def own(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in."""
    folder = shutil.copytree(made, tmp_path / "own")
    monkeypatch.chdir(folder)
    return folder


def test_listed_and_counted(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, "quarantine", "ls", "--json")
    assert done.code == 0
    rows = done.json()
    assert [row["frame"] for row in rows] == [7, 6, 5, 4, 3]
    assert rows[1]["reasons"] == {"price|min_exclusive": "0E-12"}
    done = in_process(capsys, "quarantine", "ls", "--rule", "instrument|nullability", "--limit", "2")
    assert done.out.count("/trade/0") == 2
    assert "no platform is running on it" in done.err
    done = in_process(capsys, "quarantine", "rules")
    assert "instrument|nullability" in done.out
    assert in_process(capsys, "quarantine", "ls", "--state", "rejected").out == "no rows\n"


def test_shown(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, "quarantine", "show", "6")
    assert done.code == 0
    for part in ('"p":"0"', "received_at: ", "price|min_exclusive (0E-12)", WS, "  open\n"):
        assert part in done.out, part
    shown = in_process(capsys, "quarantine", "show", "6", "--json").json()
    assert shown["text"] == trade(2, p="0").decode()


def test_released_corrected_rejected(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, "quarantine", "release", "3", "--why", "known now", "--who", "ann")
    assert (done.code, "3/trade/0: released, 1 trade, frame 9" in done.out) == (0, True)
    assert "1 released, stored; 0 fail again; 0 left for later" in done.out
    match = ("quarantine", "release", "--type", "trade", "--why", "known now")
    done = in_process(capsys, *match)
    assert (done.code, "2 would be released; 1 fail again" in done.out, "add --yes" in done.out) == (3, True, True)
    done = in_process(capsys, *match, "--yes", "--json")
    assert (done.code, done.json()["rows"], done.json()["comes_to"]) == (3, 2, {"trade": 2})
    done = in_process(capsys, "quarantine", "correct", "6/trade/0", "--set", "price=61837.5", "--why", "the tape")
    assert (done.code, "6/trade/0: corrected, 1 trade" in done.out) == (0, True)
    done = in_process(capsys, "quarantine", "reject", "7", "--why", "torn")
    assert (done.code, "7/frame/0: rejected, no rows" in done.out) == (0, True)
    rows = in_process(capsys, "query", "trade", "--json").json()
    assert {row["trade_id"]: row["price"] for row in rows}["2"] == "61837.5"
    assert len(rows) == 5
    assert in_process(capsys, "quarantine", "ls", "--json").json() == []
    audit = in_process(capsys, "audit", "--json")
    assert (audit.code, audit.json()["totals"]["superseded"], audit.json()["in_flight_frames"]) == (0, 4, 0)
    history = in_process(capsys, "quarantine", "show", "3").out
    assert "released by ann: known now (frame " in history
    done = in_process(capsys, "replay", "--into", own / "again", "--json")
    assert (done.code, done.json()["difference"], done.json()["rows"]) == (0, 0, len(rows) + 3)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["release", "6", "--why", "x"], 1, "would be quarantined again: price|min_exclusive (found '0E-12')"),
        (["release", "2", "--why", "x"], 1, "Nothing called 2 is or was in quarantine"),
        (["release", "x/y", "--why", "x"], 2, "does not name anything in quarantine"),
        (["release", "--why", "x"], 2, "Name rows, or say which by --rule"),
        (["release", "3", "--rule", "x", "--why", "x"], 2, "exactly one of the two"),
        (["release", "3", "--why", ""], 2, "why: say it in 1 to 2,000 characters"),
        (["correct", "6", "--set", "price", "--why", "x"], 2, "write column=value"),
        (["correct", "6", "--set", "prise=1", "--why", "x"], 2, "Did you mean 'price'?"),
        (["correct", "7", "--set", "price=1", "--why", "x"], 1, "no row to correct"),
        (["show", "1"], 1, "Nothing called 1"),
        (["reject", "3", "--why", "x", "--data", "nowhere"], 1, "nowhere: no such data directory"),
    ],
)
def test_what_cannot_be_done(
    made: Path,
    arguments: list[str],
    code: int,
    part: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(made)
    done = in_process(capsys, "quarantine", *arguments)
    assert (done.code, done.out) == (code, ""), done.err
    assert part in done.err


@pytest.mark.parametrize("arguments", [["release", "3"], ["correct", "3", "--why", "x"], ["show"]])
def test_what_has_to_be_said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, "quarantine", *arguments)
    assert (done.code, "Usage" in done.err) == (2, True)


async def test_through_a_running_platform(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with started("up", "--quiet", cwd=own) as process:
        await line(process, "serving")

        async def said(*arguments: str) -> str:
            done = await asyncio.to_thread(in_process, capsys, "quarantine", *arguments)
            return f"{done.code} {done.out} {done.err}"

        assert '"p":"0"' in await said("show", "6")
        assert "instrument|nullability" in await said("rules")
        told = await said("release", "3", "--why", "known now")
        assert "1 released, stored" in told
        assert "asked the running platform" in told
        assert (await said("release", "3", "--why", "again")).startswith("1 ")
        assert (await said("release", "x", "--why", "again")).startswith("2 ")


async def test_what_is_pending_is_stored_before_anything_is_decided(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Frames that the run before accepted and did not store: what is in quarantine is known only after them."""
    async with opened(own / "data") as (journal, store):
        await fill(journal, [(trade(9, p="0"), WS, 1)], Run(journal, store).now)  # type: ignore[list-item]
    done = await asyncio.to_thread(in_process, capsys, "quarantine", "reject", "9", "--why", "nonsense")
    assert (done.code, "9/trade/0: rejected" in done.out) == (0, True), done.err
