"""The event bus: one protocol, and one module for each thing that can carry it."""

from tidewire.bus.memory import MemoryBus
from tidewire.bus.protocol import (
    CLOSED,
    START,
    Bus,
    Consumer,
    ConsumerStats,
    Full,
    Handler,
    Hole,
    Key,
    Stats,
    Subscription,
    SubscriptionStats,
)

__all__ = [
    "CLOSED",
    "START",
    "Bus",
    "Consumer",
    "ConsumerStats",
    "Full",
    "Handler",
    "Hole",
    "Key",
    "MemoryBus",
    "Stats",
    "Subscription",
    "SubscriptionStats",
]
