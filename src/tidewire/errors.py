"""The error tree: split by what the caller can do about it.

::

    TidewireError
    ├── InputError               somebody typed something wrong; says what was found, what is valid, what to do
    │   ├── ConfigError            a configuration file
    │   ├── InstrumentError        a symbol
    │   │   └── AmbiguousInstrument  it could mean several; the candidates are listed
    │   └── QueryError             a read request (the API answers 400)
    ├── NotFound                 the thing named does not exist (the API answers 404)
    ├── DecisionRefused          a decision about quarantined rows that would help nobody (the API answers 409)
    │   ├── AlreadyDecided         somebody decided before
    │   └── FailsAgain             what is released would be quarantined again
    ├── SourceError              the other side
    │   ├── TransientError         try again later (time-outs, 5xx, broken connections)
    │   │   └── RateLimited          ... after ``retry_after`` seconds
    │   ├── TerminalError          trying again cannot help (4xx, refused subscriptions)
    │   └── ParseError             bytes that are not what the source promised; the frame is quarantined
    ├── JournalError             the write-ahead log
    │   ├── JournalFailed          a write or fsync failed: nothing is accepted any more
    │   ├── JournalCorrupt         bytes that fail their checksum where none may
    │   ├── JournalLocked          another process owns the directory
    │   ├── JournalTrimmed         frames that are no longer in the directory: they are in the archive
    │   └── ArchiveFailed          the archive cannot be reached, or refuses
    ├── BusError                 the event bus
    │   ├── BusClosed
    │   └── EventsLost             a broker may have lost what it accepted: begin again from your positions
    ├── StoreError               the store
    │   ├── PositionMismatch       a batch that does not continue the sink's position: re-read
    │   ├── StoreLocked            another process owns the file
    │   ├── StoreBusy              the read pool is full: try again
    │   └── StatementTimeout       a read took longer than allowed
    └── PluginError              a plugin that cannot be loaded
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TidewireError(Exception):
    """Root of every error Tidewire raises on purpose.

    ``code`` is stable and part of the API: clients may switch on it.
    """

    code = "error"


class InputError(TidewireError):
    """Somebody typed something wrong."""

    code = "invalid_input"


class ConfigError(InputError):
    """A configuration file says something that cannot be used."""

    code = "invalid_config"


class InstrumentError(InputError):
    """A symbol that cannot be resolved to an instrument."""

    code = "unknown_instrument"


class AmbiguousInstrument(InstrumentError):
    """A symbol that could mean several instruments; never guessed."""

    code = "ambiguous_instrument"

    def __init__(self, spelling: str, candidates: Iterable[str]) -> None:
        self.spelling = spelling
        self.candidates = tuple(sorted(candidates))
        super().__init__(f"{spelling!r} could mean any of {', '.join(self.candidates)}; write one of these.")


class QueryError(InputError):
    """A read request that cannot be answered as asked."""

    code = "invalid_query"


class NotFound(TidewireError):
    """The thing named does not exist."""

    code = "not_found"


class DecisionRefused(TidewireError):
    """A decision about quarantined rows that cannot be made, or would help nobody."""

    code = "decision_refused"


class AlreadyDecided(DecisionRefused):
    """Somebody decided about the row before."""

    code = "already_decided"


class FailsAgain(DecisionRefused):
    """What is released would fail the rules, or the parser, again."""

    code = "fails_again"


class SourceError(TidewireError):
    """The other side did something."""

    code = "source_error"


class TransientError(SourceError):
    """Trying again later may help."""

    code = "source_unavailable"

    elsewhere = False
    """Whether another way to ask is left, so that now may be as good as later."""


class RateLimited(TransientError):
    """The source asked us to slow down for ``retry_after`` seconds."""

    code = "source_rate_limited"

    def __init__(self, message: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class TerminalError(SourceError):
    """Trying again cannot help."""

    code = "source_refused"


class ParseError(SourceError):
    """Bytes that are not what the source promised."""

    code = "unparsable"


class JournalError(TidewireError):
    """Something about the write-ahead log."""

    code = "journal_error"


class JournalFailed(JournalError):
    """A write or fsync failed: nothing is accepted any more."""

    code = "journal_failed"


class JournalCorrupt(JournalError):
    """Bytes that fail their checksum where none may."""

    code = "journal_corrupt"


class JournalLocked(JournalError):
    """Another process owns the journal directory."""

    code = "journal_locked"


class JournalTrimmed(JournalError):
    """Frames that were asked for are no longer in the journal's directory; ``first`` is the oldest that is."""

    code = "journal_trimmed"

    def __init__(self, where: str, asked: int, first: int) -> None:
        self.asked = asked
        self.first = first
        super().__init__(
            f"{where}: frame {asked:,} was asked for, the oldest that is there is {first:,}. Older ones are in the "
            "archive: `tidewire replay` and `tidewire journal export` read both, `tidewire journal restore` brings "
            "the segments back."
        )


class ArchiveFailed(JournalError):
    """The archive cannot be reached, or refuses."""

    code = "archive_failed"


class BusError(TidewireError):
    """Something about the event bus."""

    code = "bus_error"


class BusClosed(BusError):
    """The bus is closed."""

    code = "bus_closed"


class EventsLost(BusError):
    """A broker may have lost events it had accepted: begin again from your own positions."""

    code = "events_lost"


class StoreError(TidewireError):
    """Something about the store."""

    code = "store_error"


class PositionMismatch(StoreError):
    """A batch that does not continue the sink's position: re-read from ``position``."""

    code = "position_mismatch"

    def __init__(self, stream: str, position: int, prev: int) -> None:
        self.stream = stream
        self.position = position
        self.prev = prev
        super().__init__(f"{stream}: the sink is at {position}, the batch continues {prev}.")


class StoreLocked(StoreError):
    """Another process owns the store's file."""

    code = "store_locked"


class StoreBusy(StoreError):
    """Every reader is in use; try again."""

    code = "store_busy"


class StatementTimeout(StoreError):
    """A read took longer than allowed."""

    code = "statement_timeout"


class PluginError(TidewireError):
    """A plugin that cannot be loaded."""

    code = "plugin_error"


def nearest(found: str, valid: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest valid name, or an empty string."""
    close = difflib.get_close_matches(found, list(valid), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
