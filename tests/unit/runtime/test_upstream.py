"""The sandbox's configuration from the command line."""

from __future__ import annotations

import pytest

from tidewire.errors import InputError
from tidewire.runtime.upstream import sandbox_config

USUAL = {
    "port": 0,
    "seed": 7,
    "symbols": 1,
    "futures": 0,
    "harbour": 0,
    "china": 50,
    "session": "2026-12-01T09:29:50+08:00",
    "session_speed": 2.0,
    "history_hours": 1,
    "rate": 1.0,
    "recording": None,
    "speed": 1.0,
    "start_on": (),
}


def test_the_chinese_sites_in_a_session() -> None:
    config = sandbox_config(**USUAL, faults=('china={"sina": {"lots": true}}',))
    assert (config.china_stocks, config.session_at, config.session_speed) == (50, "2026-12-01T09:29:50+08:00", 2.0)
    assert config.faults.china.sina.lots


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"session": None}, "--session-speed goes with --session"),
        ({"session": "tomorrow"}, "no time with an offset"),
    ],
)
def test_sessions_that_cannot_be(changed: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        sandbox_config(**{**USUAL, **changed}, faults=())


@pytest.mark.parametrize("fault", ['china={"sino": {}}', 'china={"sina": {"drop_windows": [5, 0]}}'])
def test_faults_that_cannot_be(fault: str) -> None:
    with pytest.raises(InputError, match="cannot be set like this"):
        sandbox_config(**USUAL, faults=(fault,))
