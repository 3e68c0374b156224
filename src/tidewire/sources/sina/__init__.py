"""Sina: quotes of A-shares as they are pushed."""

from tidewire.sources.sina.app import SinaApp

__all__ = ["SinaApp"]
