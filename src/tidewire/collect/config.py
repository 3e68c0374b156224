"""What a source file says, and errors a stranger can act on when it says something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

from tidewire.collect.schedule import parse_duration
from tidewire.errors import ConfigError, InputError, nearest

T = TypeVar("T", bound=msgspec.Struct)


POOL = "pool:"


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every configuration section: immutable, and unknown keys are refused."""


def seconds(text: str | float, where: str) -> float:
    """A duration such as ``5s``, ``500ms`` or ``1m`` in seconds; a bare number is seconds."""
    try:
        return float(text) if isinstance(text, (int, float)) else parse_duration(text)
    except InputError as error:
        raise ConfigError(f"{where}: {error}") from None


class SourceInfo(Section, frozen=True):
    """Which source this is."""

    type: str
    name: str
    display_name: str = ""


class RateLimit(Section, frozen=True):
    """How much may be asked of the source."""

    requests_per_second: float = 10.0
    burst: int = 20


class Api(Section, frozen=True):
    """Where the source is and how it is reached. Write ``key`` and ``secret`` as ``${VARIABLE}``, not into the file.

    ``streams_per_connection``: more streams are spread over several. A connection is replaced when it is up to
    ``connection_age`` old, before the source cuts it. ``proxy`` is one, or ``pool:NAME``. ``client``: who asks, in
    place of what a declared source says; ``identity``: whether it passes for a browser.
    """

    base_url: str = ""
    ws_url: str = ""
    key: str = ""
    secret: str = ""
    proxy: str = ""
    client: Literal["", "http", "browser_tls", "browser"] = ""
    identity: bool = True
    rate_limit: RateLimit = RateLimit()
    streams_per_connection: Annotated[int, msgspec.Meta(ge=1, le=1_024)] = 1_024
    connection_age: str = "23h"

    def __post_init__(self) -> None:
        if seconds(self.connection_age, "api.connection_age") < 1:
            raise ConfigError(f"connection_age {self.connection_age!r}: write 1s or more, such as 23h.")

    @property
    def pool(self) -> str:
        """The name of the pool of proxies that ``proxy`` says; empty where it is one proxy, or none."""
        return self.proxy.removeprefix(POOL) if self.proxy.startswith(POOL) else ""

    def plain(self, source: str) -> None:
        """`ConfigError` for what only declared sources can have."""
        if self.pool or self.client:
            key = "proxy: a pool" if self.pool else "client"
            raise ConfigError(f"api.{key} is for declared sources; {source} takes proxy: http://host:port.")


class SourceConfig(Section, frozen=True):
    """One source file."""

    source: SourceInfo
    api: Api = Api()
    collectors: dict[str, dict[str, Any]] = {}


def read(data: Mapping[str, Any], into: type[T], where: str) -> T:
    """Convert plain data to a configuration section.

    Raises:
        ConfigError: naming the place, what was found, what is valid, and the nearest valid key.
    """
    _check_keys(data, into, where)
    try:
        return msgspec.convert(data, into, strict=False)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        place = where + (path.rstrip("`") if path else "")
        raise ConfigError(f"{place}: {what}.") from None
    except ConfigError as error:  # a section's own check
        raise ConfigError(f"{where}: {error}") from None


def kind_of(data: Any) -> str:
    """What was found, for people. Never the value: it may be a secret that stands in the wrong place."""
    named = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return "nothing" if data is None else named.get(type(data), "keys and values")


def _check_keys(data: Any, section: Any, where: str) -> None:
    """Refuse unknown keys, also in nested sections, before types are looked at."""
    if not (isinstance(section, type) and issubclass(section, msgspec.Struct)):
        return
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected keys and values ({', '.join(_names(section))}), found {kind_of(data)}.")
    hints = get_type_hints(section)
    for key, value in data.items():
        if key not in hints:
            valid = _names(section)
            raise ConfigError(f"{where}.{key}: no such key.{nearest(str(key), valid)} Valid: {', '.join(valid)}.")
        inner = hints[key]
        if get_origin(inner) is Mapping and isinstance(value, Mapping):  # sections by name
            for name, entry in value.items():
                _check_keys(entry, get_args(inner)[1], f"{where}.{key}.{name}")
            continue
        if get_origin(inner) is Sequence and isinstance(value, list):
            for place, entry in enumerate(cast("list[Any]", value)):
                _check_keys(entry, get_args(inner)[0], f"{where}.{key}[{place}]")
            continue
        options = get_args(inner)
        for option in options or (inner,):
            # Of several things it may be, text is none that has keys.
            if value is not None and not (options and str in options and not isinstance(value, Mapping)):
                _check_keys(value, option, f"{where}.{key}")


def _names(section: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(section)]
