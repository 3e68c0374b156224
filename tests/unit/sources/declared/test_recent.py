"""Replies that were read a moment ago: taken once, and only for just the same reply."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidewire.sources.declared import Source
from tidewire.sources.declared.recent import BYTES_MAX, READS_MAX, Recent
from tidewire.sources.declared.source import Read
from unit.sources.declared.test_collector import ROWS, asking, fetched, listed, site


def test_a_read_is_taken_once_and_for_just_the_same_reply() -> None:
    recent, read = Recent(), Read(raw=3, document={"large": True})
    recent.keep("GET a", 5, b"x", read)
    assert recent.take("GET a", 6, b"x") is None
    assert recent.take("GET b", 5, b"x") is None
    found = recent.take("GET a", 5, b"x")
    assert found is not None
    assert (found.raw, found.document) == (3, None)
    assert recent.take("GET a", 5, b"x") is None
    recent.keep("GET a", 5, b"x", read)
    assert recent.take("GET a", 5, b"y") is None


def test_the_oldest_are_forgotten() -> None:
    recent = Recent()
    for number in range(READS_MAX + 1):
        recent.keep("GET a", number, b"x", Read())
    assert recent.take("GET a", 0, b"x") is None
    assert recent.take("GET a", 1, b"x") is not None
    recent.keep("GET a", 2, b"x" * BYTES_MAX, Read())
    assert recent.take("GET a", 3, b"x") is None
    assert recent.take("GET a", 2, b"x" * BYTES_MAX) is not None


async def test_what_is_collected_is_read_once_and_the_same_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, read = 0, Source.read

    def counted(self: Source, payload: bytes, names: dict[str, object], received_us: int) -> Read:
        nonlocal count
        count += 1
        return read(self, payload, names, received_us)

    monkeypatch.setattr(Source, "read", counted)
    async with site(listed) as url, asking(tmp_path, url) as (app, here):
        await fetched(app)
        frames = here.frames()
        parser = app.make_parser(app.config, app.context.instruments)
        once = parser.parse(frames)
        assert count == len(frames) == -(-ROWS // 100)
        again = parser.parse(frames)
        assert count == 2 * len(frames)
    assert once == again
