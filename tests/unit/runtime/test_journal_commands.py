"""``tidewire journal``: what is where, whether it is whole, and getting it out again."""

from __future__ import annotations

import asyncio
import base64
import shutil
from pathlib import Path

import msgspec
import pytest
import zstandard

from tidewire.collect import Cursors
from tidewire.journal import History, JournalReader, Retention
from tidewire.records.clock import SystemClock
from tidewire.runtime.archiving import history_of, local_of, make_keeper
from tidewire.runtime.config import Config, JournalSection, KeepSection
from unit.journal.archive_kit import SMALL, START_NS, filled
from unit.runtime.commands import in_process, tidewire

COUNT = 150


class Nobody:
    """A store that has everything."""

    def positions(self) -> dict[object, int]:
        return {}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose journal is archived, and trimmed in part; not to be changed."""
    folder = tmp_path_factory.mktemp("journal")
    asyncio.run(make(folder))
    return folder


async def make(folder: Path) -> None:
    from tidewire.journal import Journal
    from tidewire.records.clock import ManualClock

    await filled(folder / "data/journal", COUNT, sources=["binance", "rss"])
    shutil.copytree(folder / "data/journal", folder / "untouched")
    journal = await Journal.open(folder / "data/journal", ManualClock(), SMALL)
    config = Config(journal=JournalSection(keep=KeepSection(days=0, bytes="9KB")))
    keeper = make_keeper(config, folder / "data", journal, Nobody(), Cursors(), SystemClock())  # type: ignore[arg-type]
    assert keeper is not None
    keeper._passed = lambda: COUNT
    await keeper.archive()
    assert await keeper.trim() > 3
    await journal.close()


@pytest.fixture
def own(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be changed, and the directory commands run in."""
    shutil.copytree(made, tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    return tmp_path / "own"


def history(folder: Path) -> History:
    return history_of(Config(), folder / "data")


def test_ls(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, "journal", "ls", "--data", "data", "--json")
    told = done.json()
    segments = told["segments"]
    assert (done.code, told["accepted"], segments[0]["first"], segments[-1]["last"]) == (0, COUNT, 1, COUNT)
    assert [one["first"] for one in segments[1:]] == [one["last"] + 1 for one in segments[:-1]]
    first = JournalReader(own / "data/journal").first
    assert [one["local"] for one in segments] == ["yes" if one["first"] >= first else "no" for one in segments]
    assert {one["local"] for one in segments} == {"yes", "no"}
    assert all(one["archived_bytes"] for one in segments[:-1])
    assert segments[-1]["archived_bytes"] is None
    done = in_process(capsys, "journal", "ls", "--data", "data", "--sources", "--json")
    sums = {line["source"]: line for line in done.json()["sources"]}
    assert sums.keys() == {"binance", "rss"}
    assert sum(line["frames"] for line in sums.values()) == segments[-2]["last"]
    done = in_process(capsys, "journal", "ls", "--data", "data", "--sources")
    assert done.code == 0
    assert "rss" in done.out
    assert f"{COUNT} frames" in done.out


def test_verify_here_and_there(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, "journal", "verify", "--data", "data", "--json")
    assert (done.code, done.json()["findings"]) == (0, [])
    archived = done.json()["archived"]
    assert archived > done.json()["segments"] > 1
    part = min((own / "data/archive").rglob("*.zst"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    done = in_process(capsys, "journal", "verify", "--data", "data")
    assert done.code == 3
    assert f"{archived} archived: 1 damaged" in done.out
    assert part.name in done.out
    assert in_process(capsys, "journal", "verify", "--data", "data", "--no-archive").code == 0
    newest = max((own / "data/journal").glob("*.seg"))
    data = bytearray(newest.read_bytes())
    data[100] ^= 1
    newest.write_bytes(data)
    done = in_process(capsys, "journal", "verify", "--data", "data", "--no-archive")
    assert done.code == 3
    assert "corrupt: " in done.out


def test_export(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = list(JournalReader(own / "untouched").scan())
    done = in_process(capsys, "journal", "export", "--data", "data", "-o", "all.ndjson.zst")
    assert done.code == 0
    packed = (own / "all.ndjson.zst").read_bytes()
    lines = [
        msgspec.json.decode(line)
        for line in zstandard.ZstdDecompressor().decompressobj().decompress(packed).splitlines()
    ]
    assert [line["sequence"] for line in lines] == list(range(1, COUNT + 1))
    for line, frame in zip(lines, expected, strict=True):
        payload = line["payload"].encode() if "payload" in line else base64.b64decode(line["payload_base64"])
        assert payload == frame.payload
        assert (line["source"], line["collector"], line["request"]) == (
            frame.origin.source,
            frame.origin.collector,
            frame.origin.request,
        )
        assert (line["kind"], line["cursor"].encode()) == (frame.kind.name.lower(), frame.cursor)
        assert (line["wall_ns"], line["mono_ns"]) == (frame.wall_ns, frame.mono_ns)
    done = in_process(capsys, "journal", "export", "--data", "data", "-o", "all.ndjson.zst")
    assert (done.code, "exists already" in done.err) == (2, True)
    assert not list(own.glob("*.tmp"))


def test_export_of_a_part_to_standard_output(own: Path) -> None:
    expected = list(JournalReader(own / "untouched").scan())
    start, end = START_NS + 20 * 10**9, START_NS + 90 * 10**9
    arguments = ["--source", "rss", "--start", "2023-11-14T22:13:40Z", "--end", "2023-11-14T22:14:50Z"]
    done = tidewire("journal", "export", "--data", "data", *arguments, "--after", "30", "--limit", "9", cwd=own)
    chosen = [f.sequence for f in expected if f.origin.source == "rss" and start <= f.wall_ns < end and f.sequence > 30]
    assert [msgspec.json.decode(line)["sequence"] for line in done.out.splitlines()] == chosen[:9]
    assert len(chosen) > 9
    done = tidewire("journal", "export", "--data", "data", "--start", "yesterday", cwd=own)
    assert (done.code, "'yesterday' is not a time" in done.err) == (2, True)


def test_restore(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, "journal", "restore", "--data", "data", "--into", "again", "--json")
    assert done.code == 0
    assert done.json()["first"] == 1
    segments = sorted((own / "again").glob("*.seg"))
    assert len(segments) == done.json()["segments"]
    for path in segments:
        assert path.read_bytes() == (own / "untouched" / path.name).read_bytes()
    arguments = ["journal", "restore", "--data", "data", "--from-sequence", "40", "--to-sequence", "60"]
    done = in_process(capsys, *arguments, "--into", "part")
    assert (done.code, "restored into part" in done.out) == (0, True)
    reader = JournalReader(own / "part")
    assert 1 < reader.first <= 40
    assert 60 <= reader.accepted < COUNT
    done = in_process(capsys, *arguments, "--into", "part")
    assert (done.code, "is not an empty directory" in done.err) == (2, True)
    shutil.rmtree(own / "data/journal")
    done = in_process(capsys, "journal", "restore", "--data", "data", "--into", "lost", "--json")
    assert (done.code, done.json()["segments"]) == (0, len(segments))


def test_what_has_expired_is_told(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tidewire.journal import Archive, open_objects

    reader = local_of(own / "data")
    assert reader is not None
    archive = Archive(open_objects((own / "data/archive").as_uri(), {}), reader.uuid)
    archive.load()
    assert archive.expire({"rss": Retention(days=1)}, START_NS + 10**18) > 3
    gone = history(own).expired
    assert gone > 10
    done = in_process(capsys, "journal", "export", "--data", "data", "-o", "rest.ndjson")
    assert f"{gone} frames of this journal have expired" in done.err
    lines = (own / "rest.ndjson").read_bytes().splitlines()
    assert len(lines) == COUNT - gone
    done = in_process(capsys, "journal", "restore", "--data", "data", "--into", "again")
    assert (done.code, "--partial" in done.err) == (2, True)
    done = in_process(capsys, "journal", "restore", "--data", "data", "--into", "again", "--partial")
    assert done.code == 0
    again = JournalReader(own / "again")
    notes = [frame for frame in again.scan() if b'"noted"' in frame.payload]
    assert {msgspec.json.decode(note.payload)["what"] for note in notes} == {"expired"}
    assert again.verify() == []
    done = in_process(capsys, "replay", "--data", "data", "--into", "rows", "--json")
    assert (done.code, done.json()["expired"], done.json()["frames"]) == (0, gone, COUNT - gone)
    done = in_process(capsys, "replay", "--data", "data", "--into", "rows2")
    assert f"not the whole journal: it begins with frame 1; {gone} later frames have expired" in done.err


@pytest.mark.parametrize("command", [["ls"], ["verify"], ["export"]])
def test_no_journal_at_all(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, "journal", *command, "--data", tmp_path)
    assert (done.code, "There is no journal in" in done.err) == (1, True)
    done = in_process(capsys, "journal", "restore", "--into", tmp_path / "x", "--data", tmp_path)
    assert (done.code, "Nothing of the journal of" in done.err) == (1, True)
