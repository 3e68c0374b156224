"""A sandbox with the Chinese sites, what is true of its market, and its switches."""

from __future__ import annotations

import msgspec
import pytest

from tidewire.records.clock import ManualClock
from unit.sandbox.china.kit import SITES


@pytest.fixture
async def sites(local):
    """``await sites(...)``: a sandbox with the Chinese sites at lunch of a session, on a clock moved by hand."""

    async def start(**config):
        return await local(ManualClock(), **{**SITES, **config})

    return start


@pytest.fixture
def truth():
    """``await truth(place)``: the true quotes as a dict of rows by code."""

    async def read(place, at=None):
        reply = await place.get("/sandbox/china", params={"at": at} if at else {})
        assert reply.status == 200, reply.body
        columns = reply.body["quotes"]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return {row["exchange"] + row["code"]: row for row in rows}

    return read


@pytest.fixture
def faulty():
    """``await faulty(place, "sina", lots=True)`` sets the switches of one site."""

    async def post(place, site, **switches):
        reply = await place.post("/sandbox/faults", {"china": {site: switches}})
        assert reply.status == 200, msgspec.json.encode(reply.body)

    return post
