"""The one interface for logs and metrics, used by all rooms.

Logs are structured (structlog): JSON for machines, colours for a terminal; every line carries what was bound
around it (trace id, source, collector). Metrics are Prometheus metrics named by convention: prefix
``tidewire_``, base units, ``_total`` on counters, no unbounded labels.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, TextIO, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Logger = structlog.stdlib.BoundLogger

REGISTRY = CollectorRegistry(auto_describe=True)

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

# Values of these keys never reach a log line, whoever logs them.
_SECRET = re.compile(r"(secret|token|password|passwd|signature|api_?key|^key$|authorization|cookie)", re.IGNORECASE)
_SECRET_QUERY = re.compile(r"(?i)\b((?:api_?key|signature|token|secret|access_token)=)[^&\s\"']+")


def log(room: str) -> Logger:
    """The logger of a room, e.g. ``log("collect")``."""
    return structlog.get_logger(room=room)


def bound(**context: str) -> AbstractContextManager[Any]:
    """Bind context (``trace_id=``, ``source=``, ``collector=``) to every line logged inside the block."""
    return structlog.contextvars.bound_contextvars(**context)


def counter(name: str, about: str, labels: Sequence[str] = ()) -> Counter:
    """A counter ``tidewire_<name>_total``; ``name`` is given without prefix and suffix."""
    return Counter(f"tidewire_{name}", about, labels, registry=REGISTRY)


def gauge(name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
    """A gauge ``tidewire_<name>``; the unit is the last word of the name."""
    return Gauge(f"tidewire_{name}", about, labels, registry=REGISTRY)


def histogram(name: str, about: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS) -> Histogram:
    """A histogram ``tidewire_<name>``, in seconds unless the name ends in another unit."""
    return Histogram(f"tidewire_{name}", about, labels, registry=REGISTRY, buckets=buckets)


def exposition() -> bytes:
    """All metrics in the Prometheus text format."""
    return generate_latest(REGISTRY)


def value(name: str, /, **labels: str) -> float:
    """What a metric shows now, by its full sample name; 0 when nothing was counted yet."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def configure(level: str = "info", form: Literal["console", "json"] = "console", to: TextIO | None = None) -> None:
    """Set up logging for a process; called once, by `runtime`."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,  # before `redact`: messages of exceptions hold URLs
        redact,
    ]
    stream = to or cast("TextIO", _Stderr())
    renderer: list[structlog.typing.Processor] = (
        [structlog.processors.JSONRenderer()]
        if form == "json"
        # The plain form: the pretty one prints local variables, and secrets with them.
        else [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=shared + renderer,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


class _Stderr:
    """Standard error as it is when a line is written: a progress view may have put itself in front of it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def redact(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace secrets in a log line: by key name, and in the query string of any URL; inside lists and mappings too."""
    for name, what in event.items():
        event[name] = _redacted(name, what)
    return event


def _redacted(name: str, what: Any) -> Any:
    if what is None or isinstance(what, bool):
        return what
    if _SECRET.search(name) and what != "":
        return "***"
    if isinstance(what, (int, float)):
        return what
    if isinstance(what, Mapping):
        return {key: _redacted(str(key), inner) for key, inner in what.items()}
    if isinstance(what, (list, tuple)):
        return [_redacted("", inner) for inner in what]
    text = repr(what) if isinstance(what, BaseException) else str(what)  # also a URL, a path
    return _SECRET_QUERY.sub(r"\1***", text) if "=" in text else text
