"""What is installed: the registry of sources, as every command and the platform make it."""

from __future__ import annotations

from tidewire.collect import AppRegistry
from tidewire.sources import declared


def registry() -> AppRegistry:
    """An empty registry that understands code and files that declare a source."""
    return AppRegistry(declared)
