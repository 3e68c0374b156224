"""How a WebSocket client behaves, and what it says of its connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tidewire.errors import InputError
from tidewire.records.clock import UpstreamClock


@dataclass(frozen=True)
class WsConfig:
    """How a client behaves.

    ``silence_s``: without a data frame for that long the connection is made anew. ``ping_idle_s``: a ping goes out
    when nothing at all came for that long, and its pong must come within ``pong_timeout_s``. The back-off starts at
    ``backoff_s``, doubles up to ``backoff_s_max`` with full jitter, and starts over after a connection that brought
    data and lived for ``stable_s``. ``queue_max`` bounds the texts waiting to be sent, ``message_bytes_max`` one
    message. ``headers`` is called for each connection and may carry keys; ``gate`` is awaited before each, and may
    raise `TransientError`. ``clock`` is set by pongs in which an upstream that plays a recording says its time; it then
    stamps the frames.
    """

    name: str = ""
    connect_timeout_s: float = 10.0
    silence_s: float = 60.0
    ping_idle_s: float = 15.0
    pong_timeout_s: float = 10.0
    backoff_s: float = 0.5
    backoff_s_max: float = 60.0
    stable_s: float = 10.0
    messages_per_second: float = 5.0
    queue_max: int = 1000
    message_bytes_max: int = 16 << 20
    headers: Callable[[], Mapping[str, str]] | None = None
    gate: Callable[[], Awaitable[None]] | None = None
    proxy: str | None = field(default=None, repr=False)
    trust_env: bool = True
    clock: UpstreamClock | None = None

    def __post_init__(self) -> None:
        positive = ("connect_timeout_s", "silence_s", "ping_idle_s", "pong_timeout_s", "messages_per_second")
        for name in (*positive, "queue_max", "message_bytes_max"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be above zero.")


@dataclass(frozen=True)
class WsState:
    """A change of the connection: worth a control frame in the journal.

    ``connection`` numbers the connections that were opened, from 1; ``since_ns`` is UTC on the clock that stamps the
    frames. ``reason`` is for people.
    """

    connected: bool
    connection: int
    reason: str
    since_ns: int
