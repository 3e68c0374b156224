"""Tidewire: the self-hosted data platform for quants."""

__version__ = "0.1.0"
