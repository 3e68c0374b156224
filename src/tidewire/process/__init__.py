"""Between parsed and stored: check, quarantine, dedupe, continuity, gaps."""

from tidewire.process.processor import Processor

__all__ = ["Processor"]
