"""Settings of the buses that have any."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tidewire.errors import ConfigError

_TOKEN = re.compile(r"[A-Za-z0-9_-]+")
_SCHEMES = ("nats://", "tls://", "ws://", "wss://")


@dataclass(frozen=True)
class NatsConfig:
    """Where the NATS server is and what may be asked of it. Times in seconds, `max_bytes` in bytes."""

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    prefix: str = "tidewire"
    """First tokens of every subject; a platform has one of its own."""
    stream: str = ""
    """Name of the JetStream stream; empty: the prefix, with ``-`` for its dots."""
    max_bytes: int = 1 << 30
    """Data events the server keeps; beyond it the oldest go."""
    max_age_s: float = 3_600.0
    """How long the server keeps a data event."""
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca: Path | None = None
    """Certificates to trust instead of the system's."""
    certificate: Path | None = None
    key: Path | None = None
    timeout_s: float = 5.0
    """How long the server may take to answer; then the connection is taken for broken."""
    patience_s: float = 30.0
    """How long a publisher waits for the server to be back."""
    in_flight: int = 256
    """Events that are sent or wait to be sent, and are not acknowledged."""

    def __post_init__(self) -> None:
        for server in self.servers:
            if not server.startswith(_SCHEMES):
                raise ConfigError(
                    f"bus.servers: {server.partition('://')[0]!r}… is not an address of a NATS server: it must begin "
                    f"with one of {', '.join(_SCHEMES)}, for example nats://127.0.0.1:4222."
                )
            if "@" in server:
                raise ConfigError(
                    "bus.servers: a user or password stands in the address, and addresses are logged; use bus.user "
                    "and bus.password, or bus.token, with ${VARIABLE}."
                )
        if not self.servers:
            raise ConfigError("bus.servers: none is given; name at least one, for example nats://127.0.0.1:4222.")
        if not all(_TOKEN.fullmatch(token) for token in self.prefix.split(".")):
            raise ConfigError(
                f"bus.prefix: {self.prefix!r} cannot begin a subject: write tokens of letters, digits, '_' and '-', "
                "separated by dots, for example 'tidewire' or 'desk1.tidewire'."
            )
        if self.stream and not _TOKEN.fullmatch(self.stream):
            raise ConfigError(f"bus.stream: {self.stream!r} is not a name: use letters, digits, '_' and '-'.")
        for name in ("max_bytes", "max_age_s", "timeout_s", "patience_s", "in_flight"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"bus.{name.removesuffix('_s')}: {getattr(self, name)} is too small; it must be above 0."
                )
        if bool(self.user) != bool(self.password):
            raise ConfigError("bus.user and bus.password belong together; one of them is empty.")
        if self.certificate is None and self.key is not None:
            raise ConfigError("bus.tls_key is given without bus.tls_certificate.")

    @property
    def stream_name(self) -> str:
        """The stream's name, chosen or derived."""
        return self.stream or self.prefix.replace(".", "-")
