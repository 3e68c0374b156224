"""Reading files that declare sources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tidewire.collect import Request
from tidewire.collect.config import read, seconds
from tidewire.collect.document import read_document
from tidewire.collect.schedule import Cron, Window
from tidewire.errors import ConfigError, InputError
from tidewire.sources.declared.asking import Templates, check_requests, request
from tidewire.sources.declared.auth import check_auth
from tidewire.sources.declared.grammar import Declared, Schedule
from tidewire.sources.declared.hook import hook_of
from tidewire.sources.declared.source import Source, compile_source
from tidewire.sources.declared.values import check_values
from tidewire.sources.declared.windows import windows_of

_RATE = re.compile(r"(\d+(?:\.\d+)?)/(s|m|h)", re.ASCII)
_PER_S = {"s": 1.0, "m": 60.0, "h": 3600.0}

ALL_DAY = "00:00-24:00"
_USES = re.compile(rb"""^\s*["']?use["']?\s*:\s*["']?python\b""", re.MULTILINE)

SUFFIXES = frozenset({".yaml", ".yml", ".json"})


CATALOGUE = Path(__file__).parents[1] / "catalogue"


def catalogue() -> list[Path]:
    """The files that come with the program."""
    return sorted(CATALOGUE.glob("*.yaml"))


def declares(path: Path) -> bool:
    """Whether a file declares a source (and is not a source of a platform, or something else)."""
    if path.suffix not in SUFFIXES:
        return False
    try:
        data = read_document(path)
    except ConfigError:
        return False
    return "request" in data or "emits" in data


def load_declared(path: Path) -> Source:
    """A file's source; `ConfigError` with file, key, what was found, what is valid."""
    where = str(path)
    declared = read(read_document(path), Declared, where)
    if path.stem != declared.source:
        raise ConfigError(f"{where}: source: {declared.source!r} must be the file's name, {path.stem!r}.")
    _check_schedule(declared, where)
    asking = declared.request
    if bool(asking.get) == bool(asking.post):
        raise ConfigError(f"{where}: request: write get or post, and an address.")
    if sum(map(bool, (asking.form, asking.json is not None, asking.body))) > 1:
        raise ConfigError(f"{where}: request: write one of form, json and body.")
    if asking.get and (asking.form or asking.json is not None or asking.body):
        raise ConfigError(f"{where}: request: form, json and body belong to post.")
    seconds(asking.timeout, f"{where}: request.timeout")
    per_second(declared.limits.rate, f"{where}: limits.rate")
    try:
        share(declared.limits.jitter)
    except InputError as error:
        raise ConfigError(f"{where}: limits.jitter: {error}") from None
    if asking.client == "browser" and asking.post:
        raise ConfigError(f"{where}: request.client: a browser opens addresses; write get, or another client.")
    if asking.response and asking.client != "browser":
        raise ConfigError(f"{where}: request.response: only of a browser; write client: browser.")
    paginate = declared.paginate
    if paginate is not None:
        if sum(map(bool, (paginate.page, paginate.offset, paginate.cursor))) != 1:
            raise ConfigError(f"{where}: paginate: write one of page, offset and cursor.")
        if bool(paginate.cursor) != bool(paginate.next):
            raise ConfigError(f"{where}: paginate: cursor and next belong together.")
        if paginate.offset and not paginate.size:
            raise ConfigError(f"{where}: paginate: offset needs size, such as {{limit: 100}}.")
    if asking.auth is not None:
        check_auth(asking.auth, f"{where}: request.auth")
    if asking.cache and asking.post:
        raise ConfigError(f"{where}: request.cache: only what is asked for with get can be told to be as it was.")
    if asking.cache and declared.paginate is not None:
        raise ConfigError(
            f"{where}: request.cache: a page that is as it was says nothing about the others; leave it out."
        )
    if declared.since is not None:
        windows_of(declared.since, where)
    for place, case in enumerate(declared.tests):
        if bool(case.responses) == bool(case.file):
            raise ConfigError(f"{where}: tests[{place}]: write responses, or the file of one.")
    check_values(declared, where)
    texts = check_requests(declared, where)
    source = compile_source(declared, where)
    return with_code(source, texts, path) if declared.use else source


def with_code(source: Source, texts: Templates, path: Path) -> Source:
    """The source, with the class beside its file."""
    declared = source.declared

    def makes(names: Mapping[str, Any], more: Mapping[str, Any]) -> Request:
        return request(declared, texts, names, more)

    hook = hook_of(path.with_suffix(".py"), makes, source.select)
    return replace(source, hook=hook, select=hook.rows)


def beside(path: Path) -> bool:
    """Whether Python is part of a file that declares a source: its text says so, even where it is wrong otherwise."""
    if path.suffix != ".py":
        return False
    for suffix in SUFFIXES:
        file = path.with_suffix(suffix)
        if file.is_file() and _USES.search(file.read_bytes()):
            return True
    return False


def _check_schedule(declared: Declared, where: str) -> None:
    schedule = declared.schedule
    if schedule.every and schedule.cron:
        raise ConfigError(f"{where}: schedule: write every or cron, not both.")
    try:
        if schedule.every:
            seconds(schedule.every, f"{where}: schedule.every")
        if schedule.cron:
            Cron(schedule.cron, schedule.tz)
        window_of(schedule)
        for text in declared.expect.session:
            Window(text, schedule.tz)
        share(schedule.jitter)
        if declared.expect.fresh:
            seconds(declared.expect.fresh, f"{where}: expect.fresh")
        if declared.expect.fresh and "event_time" not in declared.fields:
            raise ConfigError(
                f"{where}: expect.fresh: the file fills no event_time, so that nothing tells how old it is."
            )
    except ConfigError:
        raise
    except InputError as error:
        raise ConfigError(f"{where}: schedule: {error}") from None


def window_of(schedule: Schedule) -> Window | None:
    """When it may be asked; None: always. `InputError` for what is no window, or no calendar."""
    if not schedule.between and not schedule.calendar:
        return None
    return Window(schedule.between or ALL_DAY, schedule.tz, calendar=schedule.calendar)


def per_second(text: str, where: str) -> float:
    """``2/s`` or ``30/m`` in requests per second: a pace, so a float will do."""
    match = _RATE.fullmatch(text.replace(" ", ""))
    if match is None or not float(match[1]):
        raise ConfigError(f"{where}: {text!r} is no rate; write 2/s, 30/m or 100/h.")
    return float(match[1]) / _PER_S[match[2]]


def share(text: str) -> float:
    """``10%`` as 0.1, a float since only compared and multiplied by times; `InputError` for anything else."""
    number = text.removesuffix("%")
    if not text.endswith("%") or not number.replace(".", "", 1).isdecimal() or float(number) > 100:
        raise InputError(f"{text!r} is no share; write 10%.")
    return float(number) / 100
