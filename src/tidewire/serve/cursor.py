"""Opaque signed cursors: where the next page begins, for one request and one snapshot."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import msgspec

from tidewire.serve.problems import Refused

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION = 1
_TAG = 16
_DO = "Begin again without cursor=."


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended: the store's position, in the snapshot that page was read from."""

    version: int
    filters: bytes
    snapshot_us: int
    after: tuple[int, ...]

    @property
    def snapshot(self) -> datetime:
        """The snapshot every page of the request reads."""
        return _EPOCH + timedelta(microseconds=self.snapshot_us)


def digest(filters: object) -> bytes:
    """What a cursor is bound to: the parts of a request that decide which rows come, in which order."""
    return hashlib.sha256(msgspec.json.encode(filters, order="deterministic")).digest()[:_TAG]


class Cursors:
    """Writes and reads cursors under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _tag(self, body: bytes) -> bytes:
        return hmac.digest(self._key, b"cursor" + body, "sha256")[:_TAG]

    def write(self, filters: bytes, snapshot: datetime, after: tuple[int, ...]) -> str:
        """The cursor of the page that follows ``after``."""
        snapshot_us = (snapshot - _EPOCH) // timedelta(microseconds=1)
        body = msgspec.msgpack.encode(Place(_VERSION, filters, snapshot_us, after))
        return base64.urlsafe_b64encode(self._tag(body) + body).rstrip(b"=").decode()

    def read(self, text: str, filters: bytes) -> Place:
        """The place a cursor names.

        Raises `Refused` with ``cursor_invalid`` for anything this key did not sign, ``cursor_mismatch`` for the
        cursor of a request with other filters.
        """
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            # Two texts may decode to the same bytes; only the one we wrote is a cursor.
            if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
                raise ValueError(text)
        except (binascii.Error, ValueError):
            raise Refused("cursor_invalid", f"cursor: {text[:40]!r} is not a cursor of this API. {_DO}") from None
        tag, body = raw[:_TAG], raw[_TAG:]
        if not hmac.compare_digest(tag, self._tag(body)):
            raise Refused(
                "cursor_invalid",
                f"cursor: it was changed, cut off, or signed by a process that has ended. {_DO}",
            )
        place = msgspec.msgpack.decode(body, type=Place)
        if place.version != _VERSION:
            raise Refused("cursor_invalid", f"cursor: it was written by another version. {_DO}")
        if place.filters != filters:
            raise Refused(
                "cursor_mismatch",
                "cursor: it belongs to a request with other filters. Repeat the parameters of the first page "
                f"(limit, format, fields and numbers may change). {_DO}",
            )
        return place
