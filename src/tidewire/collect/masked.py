"""What may be shown of URLs, requests and errors: everything but the secrets in them."""

from __future__ import annotations

import re
from typing import cast

from yarl import URL

from tidewire import telemetry

_USERINFO = re.compile(r"//[^/@\s]+@")


def safe_text(text: str) -> str:
    """Text with the secrets of any URL in it replaced."""
    shown = telemetry.redact(None, "", {"text": text})
    return _USERINFO.sub("//***@", cast("str", shown["text"]))


def told(error: Exception) -> str:
    """What an error of a network library says, fit for logs and messages."""
    return safe_text(f"{type(error).__name__}: {error}")


def named(method: str, url: URL) -> str:
    """How a request is named in messages: without its query, which may hold keys."""
    return f"{method} {url.with_query(None).with_user(None)}"
