from __future__ import annotations

import asyncio

import pytest

from conformance.bus_kit import note, soon
from tidewire.bus.inbox import Inbox
from tidewire.errors import BusClosed


async def test_writers_are_served_in_the_order_they_came() -> None:
    inbox = Inbox(1)
    events = [note("a.b") for _ in range(4)]
    inbox.add(events[0])
    writers = [asyncio.create_task(inbox.push(event)) for event in events[1:]]
    await asyncio.sleep(0)
    assert (inbox.full, inbox.writers) == (True, 3)
    assert [inbox.pop() for _ in range(4)] == events
    await soon(asyncio.gather(*writers))
    assert not inbox.full


async def test_a_newcomer_does_not_overtake_a_writer() -> None:
    inbox = Inbox(2)
    first, second, third = (note("a.b") for _ in range(3))
    inbox.add(first)
    inbox.add(second)
    writer = asyncio.create_task(inbox.push(third))
    await asyncio.sleep(0)
    inbox.pop()
    assert inbox.full
    assert list(inbox.pending) == [second, third]
    await soon(writer)


async def test_a_cancelled_writer_leaves_nothing_behind() -> None:
    inbox = Inbox(1)
    inbox.add(note("a.b"))
    writer = asyncio.create_task(inbox.push(note("a.b")))
    await asyncio.sleep(0)
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    assert inbox.writers == 0
    inbox.pop()
    assert not inbox.full


async def test_released_writers_go_with_the_error_or_without() -> None:
    inbox = Inbox(1)
    inbox.add(note("a.b"))
    writers = [asyncio.create_task(inbox.push(note("a.b"))) for _ in range(2)]
    await asyncio.sleep(0)
    inbox.release()
    await soon(asyncio.gather(*writers))
    writer = asyncio.create_task(inbox.push(note("a.b")))
    await asyncio.sleep(0)
    inbox.release(BusClosed("gone"))
    with pytest.raises(BusClosed, match="gone"):
        await soon(writer)
    with pytest.raises(BusClosed, match="gone"):
        await inbox.push(note("a.b"))


async def test_settled_when_the_reader_waits() -> None:
    inbox = Inbox(1)
    settled = asyncio.create_task(inbox.settled())
    await asyncio.sleep(0)
    assert not inbox.idle
    reader = asyncio.create_task(inbox.change())
    await soon(settled)
    assert inbox.idle
    inbox.add(note("a.b"))
    assert not inbox.idle
    await soon(reader)
