"""What holds for every test: helpers that assert are rewritten, property tests have no time limit each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import settings

# Shared machines stall now and then; a slow example is not a failure.
settings.register_profile("tidewire", deadline=None)
settings.load_profile("tidewire")

pytest.register_assert_rewrite(
    "conformance.bus",
    "conformance.bus_consumers",
    "conformance.bus_kit",
    "conformance.bus_life",
    "conformance.store",
    "conformance.store_commits",
    "conformance.store_kit",
    "conformance.store_reads",
    "crash.disk",
    "crash.harness",
    "crash.truth",
    "integration.kit",
    "unit.journal.trial",
)


@pytest.fixture
def did(request: pytest.FixtureRequest) -> Callable[[object], None]:
    """Says what a suite did; it is shown at the end, also when the test ran in another process."""
    return lambda what: request.node.user_properties.append(("did", str(what)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports: Sequence[Any] = [report for some in terminalreporter.stats.values() for report in some]
    for report in reports:
        for name, what in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
            if name == "did":
                terminalreporter.write_line(f"{report.nodeid.split('::', 1)[1]}: {what}")
