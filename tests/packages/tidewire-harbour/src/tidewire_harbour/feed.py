"""How Harbour's channels are asked for, and how its connections are kept."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidewire.collect import Limits, PoolConfig, WsClient, WsConfig
from tidewire_harbour import wire

CHANNELS_MAX = 60
# Harbour closes a connection on which it had no text for 30 seconds.
PING_S = 10.0
# 5 texts a second are allowed, 300 connections in 5 minutes; some of both is left to others at this address.
WS = WsConfig(name="harbour", messages_per_second=4.0, silence_s=30.0)
CONNECTS = Limits(requests_per_second=0.5, burst=100)
# One message asks for all channels, so old and new need not run side by side for long.
OVERLAP_S = 2.0
# The beginning of the message that says the connection will be closed.
FAREWELL = b'{"event":"notice","code":"2010"'


def pool_config(streams_max: int, age_s: float) -> PoolConfig:
    """What Harbour allows."""
    return PoolConfig(
        min(streams_max, CHANNELS_MAX), age_s, farewells=(FAREWELL,), connects=CONNECTS, overlap_s=OVERLAP_S
    )


class HarbourDialect:
    """Subscribes by message, and knows the connections, which want a ping of their own now and then."""

    def __init__(self) -> None:
        self._clients: set[WsClient] = set()

    def subscribe(self, client: WsClient, streams: Sequence[str]) -> None:
        """Ask for the channels."""
        self._clients.add(client)
        self._send(client, "subscribe", streams)

    def unsubscribe(self, client: WsClient, streams: Sequence[str]) -> None:
        """Give them up."""
        self._send(client, "unsubscribe", streams)

    def ping(self) -> None:
        """Say something on every connection; those that are gone are forgotten, a new one subscribes again."""
        self._clients = {each for each in self._clients if each.connected}
        for client in self._clients:
            client.send_text(wire.PING)

    def _send(self, client: WsClient, op: str, streams: Sequence[str]) -> None:
        args = [
            {"channel": channel, "symbol": symbol} for symbol, _, channel in (each.partition("@") for each in streams)
        ]
        if args:
            client.send_text(msgspec.json.encode({"op": op, "args": args}).decode())
