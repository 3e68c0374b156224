"""The clock of a replay: the time of the frames."""

from __future__ import annotations

import asyncio

from tidewire.journal import Frame, Kind, Origin
from tidewire.replay import ReplayClock


def frame(wall_ns: int) -> Frame:
    return Frame(1, wall_ns, 5, Kind.DATA, Origin("s", "c", "r"), b"", b"")


async def test_time_is_that_of_the_last_frame() -> None:
    clock = ReplayClock()
    assert (clock.wall_ns(), clock.mono_ns()) == (0, 0)
    clock.follow(frame(1_000))
    assert (clock.wall_ns(), clock.mono_ns()) == (1_000, 0)
    clock.follow(frame(4_000))
    assert (clock.wall_ns(), clock.mono_ns()) == (4_000, 3_000)
    clock.follow(frame(3_000))  # of another journal; what only goes forward does
    assert (clock.wall_ns(), clock.mono_ns()) == (3_000, 3_000)


async def test_waiting_lets_others_run_and_costs_nothing() -> None:
    clock = ReplayClock()
    ran: list[int] = []
    asyncio.get_running_loop().call_soon(ran.append, 1)
    async with asyncio.timeout(5):
        await clock.sleep(1e9)
    assert ran == [1]
