"""What may stand in a file that declares a source: one section a key, unknown keys are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from tidewire.collect import Section

Action = Literal["retry", "back_off", "rotate", "skip", "stop", "quarantine", "fail"]

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Schedule(Section, frozen=True):
    """When it is asked: ``every`` so long, or by a ``cron`` line; where said, only ``between`` local times.

    ``calendar`` names a trading calendar: asked on its sessions only, and ``between: session`` while it is open.
    """

    every: str = ""
    cron: str = ""
    between: str = ""
    calendar: str = ""
    tz: str = "Asia/Shanghai"
    jitter: str = "10%"


class Auth(Section, frozen=True):
    """Who asks; keys as ``${VARIABLE}`` of the environment, or ``${api.key}`` and ``${api.secret}`` of a platform file.

    ``bearer`` a token, ``basic`` user and password, ``query`` or ``header`` names and what they hold.
    """

    bearer: str = ""
    basic: Sequence[str] = ()
    query: Mapping[str, str] = {}
    header: Mapping[str, str] = {}


class Asking(Section, frozen=True):
    """What is asked for: ``get`` or ``post`` an address; ``${…}`` in any text is put in.

    ``cache``: a reply that is as it was is not sent again by sites that can tell (ETag, Last-Modified).
    ``client``: who asks; ``response``: of what a browser loads with a page, the one whose address has this in it.
    """

    get: str = ""
    post: str = ""
    params: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}
    form: Mapping[str, Any] = {}
    json: Any = None
    body: str = ""
    timeout: str = "10s"
    auth: Auth | None = None
    cache: bool = False
    client: Literal["http", "browser_tls", "browser"] = "http"
    response: str = ""


class Paginate(Section, frozen=True):
    """How the rest of a list is asked for.

    ``page`` or ``offset`` names the parameter that counts; ``cursor`` the one that takes what ``next`` finds in the
    reply. ``size`` is the parameter of the page's length and the length; ``total`` and ``more`` are JMESPaths to the
    number of rows there are and to whether there are more. ``max`` pages are asked for at most, ``parallel`` at once.
    """

    page: str = ""
    offset: str = ""
    cursor: str = ""
    next: str = ""
    start: int = 1
    size: Mapping[str, int] = {}
    total: str = ""
    more: str = ""
    parallel: Positive = 1
    max: Positive = 200


class Quota(Section, frozen=True):
    """How much may be asked: ``rate`` as ``2/s`` or ``30/m``, ``concurrency`` at once.

    ``share`` names the family of sites that counts together: all files with the same word have one limit, the lowest
    of theirs. ``adapt``: slower after each refusal, faster again when all is well. ``jitter``: by up to this share the
    time to the next request is longer. ``proxy`` names the pool of proxies it is asked over.
    """

    rate: str = "1/s"
    concurrency: Positive = 1
    share: str = ""
    adapt: bool = False
    jitter: str = "30%"
    proxy: str = ""


class Since(Section, frozen=True):
    """Windows of time, one after the other: ``${since}`` and ``${until}`` of a request.

    They begin at ``start`` (a local date or time, or so long ago, as ``30d``), are ``step`` long and end now; without
    ``step`` there is one. The newest begins ``lookback`` before the end of the last that was whole. ``field`` is the
    column whose times show that the site keeps to the window. Times are told in ``tz``.
    """

    start: str
    field: str = ""
    step: str = ""
    lookback: str = ""
    tz: str = "Asia/Shanghai"


class Ref(Section, frozen=True):
    """Values that are stored: of a column, ``ref: instrument.instrument``, in the latest rows with ``where``.

    ``chunk``: in lists of so many. ``default``: instead, while nothing is stored.
    """

    ref: str
    where: Mapping[str, str | Sequence[str]] = {}
    chunk: Annotated[int, msgspec.Meta(ge=0)] = 0
    default: Sequence[str] = ()


class Condition(Section, frozen=True):
    """Of a reply: its status is one of these, or its content type begins so."""

    status: Sequence[int] = ()
    content_type: str = ""


class Rule(Section, frozen=True):
    """What is done with a reply: ``when`` is a `Condition`, or a JMESPath on the document that gives true."""

    when: Condition | str
    do: Action


class Expect(Section, frozen=True):
    """What a whole answer has: ``rows`` as ``">= 1"`` or the path of the site's own total, ``unique`` columns.

    ``all_of``: a name of ``for_each``, each of whose instruments has a row.
    ``fresh``: how old its newest row may be, within the local times of ``session`` (those of the schedule where it is
    is not said). ``null_share``: how much of a column may be null. ``unit``: where amount / volume of a row is so many
    times off its low and high, what else is made of it is quarantined; 0 does not look.
    """

    rows: str | int = ""
    unique: Sequence[str] = ()
    all_of: str = ""
    fresh: str = ""
    session: Sequence[str] = ()
    null_share: Mapping[str, str] = {}
    unit: float = 0.0


class Output(Section, frozen=True):
    """Another record type that is made of the same raw rows, with fields of its own.

    The ``where`` of the file applies to all its types, this one to one type alone.
    """

    emits: str
    fields: Mapping[str, Any]
    where: str = ""
    key: Sequence[str] = ()


class Case(Section, frozen=True):
    """A test in the file: ``responses`` (text, or JSON as YAML) and the ``rows`` they must give; null: none given.

    ``file``: names of files beside this one that hold responses as they came.
    ``given`` are names such as ``symbol`` or ``since``; ``requests``: the addresses that must be asked for. ``also``:
    the rows of other types, by type.
    """

    name: str
    responses: Sequence[Any] = ()
    file: str | Sequence[str] = ()
    given: Mapping[str, Any] = {}
    encode: str = "utf-8"
    received: str = "2026-01-05T01:30:00Z"
    requests: Sequence[str] | None = None
    rows: Sequence[Mapping[str, Any]] | None = None
    also: Mapping[str, Sequence[Mapping[str, Any]]] = {}
    wrong: Sequence[str] = ()
    skipped: int = 0


class Declared(Section, frozen=True):
    """A source in a file: what it is, when and how it is asked, how its replies become rows.

    ``use``: ``python`` where a class beside the file says what the file cannot (`tidewire.sources.declared.hook`).
    """

    version: Literal[1]
    source: str
    emits: str
    request: Asking
    fields: Mapping[str, Any]
    about: str = ""
    use: Literal["", "python"] = ""
    schedule: Schedule = Schedule()
    for_each: Mapping[str, Sequence[Any] | Ref] = {}
    since: Since | None = None
    paginate: Paginate | None = None
    decode: str | Mapping[str, Any] = "json"
    select: str | Mapping[str, Any] | None = None
    where: str = ""
    key: Sequence[str] = ()
    also: Sequence[Output] = ()
    limits: Quota = Quota()
    errors: Sequence[Rule] = ()
    expect: Expect = Expect()
    tests: Sequence[Case] = ()
