"""A writer is killed with SIGKILL again and again; what it said was accepted is there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crash.journal_writer import payload
from tidewire.journal import JournalReader

KILLS = 50
FRAMES = 20_000
SECONDS = 30


def run_and_kill(server: subprocess.Popen[bytes], lines: int) -> tuple[int, int]:
    """Start a writer, kill it after so many lines; what it found at its start and the last it said was accepted."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(b"start\n")
    server.stdin.flush()
    said: list[int] = []
    pid = 0
    while True:
        line = server.stdout.readline()
        assert line, "the writers' parent ended"
        word, _, number = line.partition(b" ")
        if word == b"pid":
            pid = int(number)
        elif word == b"dead":
            assert int(number) == signal.SIGKILL, "the writer ended by itself"
            return said[0], said[-1]
        else:
            said.append(int(word))
        if pid and len(said) >= lines:
            os.kill(pid, signal.SIGKILL)
            pid = 0


@pytest.mark.crash
def test_kill(tmp_path: Path, did: Callable[[object], None]) -> None:
    chance = random.Random(7)
    begin = time.monotonic()
    said = kills = 0
    program = Path(__file__).with_name("journal_writer.py")
    command = [sys.executable, str(program), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        while kills < KILLS or said < FRAMES:
            assert time.monotonic() - begin < SECONDS, f"only {kills} kills and {said} frames in {SECONDS} s"
            found, now = run_and_kill(server, chance.randrange(1, 40))
            assert found >= said, f"{said} were accepted, the next writer found {found}"
            said = now
            kills += 1
    did(f"{kills} kills, {said:,} frames accepted, in {time.monotonic() - begin:.0f} s")
    reader = JournalReader(tmp_path)
    assert reader.accepted >= said
    count = 0
    for count, frame in enumerate(reader.scan(), 1):
        assert (frame.sequence, frame.payload) == (count, payload(count))
    assert count == reader.accepted
    assert [finding for finding in reader.verify() if finding.level != "torn"] == []
    assert kills >= KILLS
    assert count >= FRAMES
    assert len(reader.segments()) > 10
