"""Harbour, the exchange of Tidewire's sandbox, as a source of Tidewire."""

from tidewire_harbour.app import Harbour

__all__ = ["Harbour"]
