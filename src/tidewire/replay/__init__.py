"""Replay: the same road with a journal at its start instead of a source."""

from tidewire.replay.clock import ReplayClock
from tidewire.replay.runner import Replay

__all__ = ["Replay", "ReplayClock"]
