"""Anything that can happen to a journal, in any order, against a plain list; and mutants that the machine finds.

A rule for each thing: append, accept, commit, trim, a write or a sync that fails, a power cut, a restart, reading.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tidewire.errors import JournalError, JournalFailed, JournalTrimmed
from tidewire.journal import Journal, JournalReader
from tidewire.journal import journal as journal_module
from tidewire.journal.commit import Committer, Group
from tidewire.journal.recent import Recent
from unit.journal.power import broken_disk
from unit.journal.trial import Trial, row

# How far a journal has come when the power goes is a matter of threads: nothing drawn may depend on it.
SEEDS = st.integers(0, 1000)
PLACES = st.integers(0, 1 << 20)


class Machine(RuleBasedStateMachine):
    """A journal and a list of its frames."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.trial = Trial(Path(self.directory.name))
        self.state = "open"
        self.runner.run(self.trial.open())

    def teardown(self) -> None:
        self.runner.run(self.trial.close())
        self.runner.close()
        self.directory.cleanup()

    def is_open(self) -> bool:
        return self.state == "open"

    # -- writing

    @precondition(is_open)
    @rule(seed=SEEDS, count=st.integers(1, 12))
    def append(self, seed: int, count: int) -> None:
        chance = random.Random(seed)

        async def go() -> None:
            for _ in range(count):
                self.trial.append(chance)

        self.runner.run(go())
        assert self.trial.journal.head == len(self.trial.rows)

    @precondition(is_open)
    @rule(place=PLACES)
    def accept(self, place: int) -> None:
        if not self.trial.rows:
            return
        sequence = 1 + place % len(self.trial.rows)
        self.runner.run(self.trial.journal.accept(sequence))
        assert self.trial.journal.accepted >= sequence

    @precondition(is_open)
    @rule()
    def commit(self) -> None:
        self.runner.run(self.trial.journal.drain())
        assert self.trial.journal.accepted == len(self.trial.rows)

    @precondition(is_open)
    @rule(seed=SEEDS, sync=st.booleans())
    def fail(self, seed: int, sync: bool) -> None:
        """The disk refuses: nothing after it is accepted, and nothing that was accepted before is taken back."""
        trial = self.trial

        async def go() -> None:
            await trial.journal.drain()
            accepted = trial.journal.accepted
            if sync:
                trial.files.fail_sync = broken_disk()
            else:
                trial.files.fail_write = broken_disk()
            trial.append(random.Random(seed))
            with pytest.raises(JournalFailed):
                await trial.journal.accept(trial.journal.head)
            assert trial.journal.accepted == accepted
            with pytest.raises(JournalFailed):
                trial.journal.append(trial.rows[-1][1], b"")

        self.runner.run(go())
        self.state = "failed"

    @precondition(is_open)
    @rule(place=PLACES)
    def trim(self, place: int) -> None:
        segments = [segment for segment in self.trial.journal.segments() if segment.last >= segment.first]
        if not segments:
            return
        self.trial.first = segments[place % len(segments)].first
        self.runner.run(self.trial.journal.trim(self.trial.first))
        assert self.trial.journal.first == self.trial.first

    @precondition(is_open)
    @rule()
    def close(self) -> None:
        self.runner.run(self.trial.journal.close())
        self.state = "closed"
        assert self.trial.journal.accepted == len(self.trial.rows)

        async def append() -> None:
            self.trial.append(random.Random(0))

        with pytest.raises(JournalError):
            self.runner.run(append())

    # -- starting again

    @rule(seed=SEEDS)
    def cut(self, seed: int) -> None:
        chance = random.Random(seed)
        cut = self.trial.cut if self.is_open() else self.trial.cut_as_it_is
        self.runner.run(cut(chance))
        self.state = "open"

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.trial.reopen())
        self.state = "open"

    @rule(seconds=st.integers(-100, 100))
    def jump(self, seconds: int) -> None:
        self.trial.clock.jump(seconds)

    # -- reading

    @rule(place=st.just(0) | PLACES, most=st.integers(1, 20))
    def read(self, place: int, most: int) -> None:
        journal, rows, first = self.trial.journal, self.trial.rows, self.trial.first
        after = place % (len(rows) + 1)
        try:
            found = [row(frame) for frame in journal.read(after, frames=most)]
        except JournalTrimmed:
            assert after < first - 1
        else:
            assert found == rows[after : min(journal.accepted, after + most)]

    @rule(place=PLACES, source=st.sampled_from([None, "binance", "rss"]))
    def scan(self, place: int, source: str | None) -> None:
        journal, rows, first = self.trial.journal, self.trial.rows, self.trial.first
        after = place % (len(rows) + 1)
        if after < min(first - 1, journal.accepted):
            with pytest.raises(JournalTrimmed):
                list(journal.scan(after=after, source=source))
            return
        expected = [found for found in rows[after : journal.accepted] if source in (None, found[1].source)]
        frames = list(journal.scan(after=after, source=source))
        assert [row(frame) for frame in frames] == expected
        walls = [frame.wall_ns for frame in frames]
        assert walls == sorted(walls)

    @rule()
    def look_from_outside(self) -> None:
        """A reader beside the writer sees at least what was accepted, and nothing else than what was appended."""
        journal, rows = self.trial.journal, self.trial.rows
        if not list(journal.directory.glob("*.seg")):
            assert journal.accepted == 0
            return
        accepted = journal.accepted
        reader = JournalReader(journal.directory)
        first = self.trial.first
        found = [row(frame) for frame in reader.scan(after=first - 1)]
        assert accepted <= first - 1 + len(found) <= len(rows)
        assert found == rows[first - 1 : first - 1 + len(found)]

    @invariant()
    def is_in_order(self) -> None:
        assert 0 <= self.trial.journal.accepted <= self.trial.journal.head


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


class AcceptsBeforeSync(Committer):
    def _commit(self, group: Group) -> None:
        self._writer.write(group.frames)
        self._announce(group, self._writer.place)
        self._writer.sync()


def believes_the_page_cache(file: Any, tail: Any, files: Any, segment_bytes: int) -> int:
    descriptor = files.open(file.path)
    files.truncate(descriptor, tail.end)
    files.allocate(descriptor, segment_bytes)
    files.sync(descriptor)
    return descriptor


def forgets_where_it_began(self: Recent, after: int, most: int, room: int) -> Any:
    frames = [frame for group, _ in self._groups for frame in group if frame.sequence > after]
    return frames[:most] or None


MUTANTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "accepts before it syncs": (Journal, "committer", AcceptsBeforeSync),
    "believes the page cache after a failed sync": (journal_module, "repair", believes_the_page_cache),
    "reads from memory what is no longer there": (Recent, "read", forgets_where_it_began),
}


RUNS = 12
"""What its threads do between the steps is chance: a mutant has so many runs to be found in."""


@pytest.mark.parametrize("name", MUTANTS)
def test_the_machine_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[name])
    tries = settings(
        max_examples=300,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    for attempt in range(RUNS):
        try:
            run_state_machine_as_test(Machine, settings=settings(tries, derandomize=attempt == 0))
        # Flaky is what a machine with threads is: found, and not found again.
        except (AssertionError, JournalError, FlakyFailure):
            return
    pytest.fail(f"not found in {RUNS} runs")
