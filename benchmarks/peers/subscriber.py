"""A subscriber of Tidewire's WebSocket API, in a process of its own: what reached it, and when."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
import uvloop
import websockets
from tally import Tally, until_told

TYPES = {"trades_quotes": ("trade", "quote"), "depth": ("book_delta",)}
KINDS = {"trade": "trade", "quote": "quote", "book_delta": "depth"}

tally = Tally()


class Row(msgspec.Struct):
    instrument: str
    sequence: int


class Message(msgspec.Struct):
    op: str
    ch: str = ""
    rows: list[Row] = []
    reason: str = ""


async def read(url: str, gaps: list[str]) -> None:
    """Read until the connection ends; the reasons of gaps that were told go to ``gaps``."""
    decode = msgspec.json.Decoder(Message).decode
    last: dict[str, int] = {}
    async with websockets.connect(
        url, subprotocols=[websockets.Subprotocol("tidewire.v1.json")], compression=None, max_size=None
    ) as socket:
        channels = [f"{name}.>" for name in TYPES[tally.orders["scenario"]]]
        await socket.send(msgspec.json.encode({"op": "subscribe", "channels": channels}).decode())
        try:
            async for text in socket:
                message = decode(text)
                if message.op == "subscribed":
                    tally.ready()
                elif message.op == "gap":
                    gaps.append(message.reason)
                kind = KINDS.get(message.ch.partition(".")[0], "")
                for row in message.rows:
                    # The levels of one update share its number and count as one.
                    if kind != "depth" or last.get(row.instrument) != row.sequence:
                        last[row.instrument] = row.sequence
                        tally.row(kind, row.instrument.partition(".")[0].replace("-", ""), row.sequence)
        except websockets.ConnectionClosedError as error:
            gaps.append(f"closed: {error}")


async def main() -> None:
    """Read until told to stop."""
    gaps: list[str] = []
    reader = asyncio.create_task(read(tally.orders["stream"], gaps))
    told = asyncio.create_task(asyncio.to_thread(until_told))
    await asyncio.wait([told, reader], return_when=asyncio.FIRST_COMPLETED)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    tally.report(gaps=dict(Counter(gaps)))


if __name__ == "__main__":
    uvloop.run(main())
