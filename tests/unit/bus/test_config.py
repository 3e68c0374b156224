from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tidewire.bus._nats_link import tls_context
from tidewire.bus.config import NatsConfig
from tidewire.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"servers": ()}, "bus.servers: none is given"),
        ({"servers": ("127.0.0.1:4222",)}, "must begin with one of nats://"),
        ({"servers": ("nats://me:s3cret@host",)}, "use bus.user and bus.password"),
        ({"prefix": "tide wire"}, "bus.prefix: 'tide wire' cannot begin a subject"),
        ({"prefix": "tide.>"}, "bus.prefix"),
        ({"prefix": ""}, "bus.prefix"),
        ({"stream": "a.b"}, "bus.stream: 'a.b' is not a name"),
        ({"max_bytes": 0}, "bus.max_bytes: 0 is too small"),
        ({"max_age_s": 0.0}, "bus.max_age: 0.0 is too small"),
        ({"in_flight": 0}, "bus.in_flight"),
        ({"user": "tide"}, "belong together"),
        ({"password": "s3cret"}, "belong together"),
        ({"key": Path("key.pem")}, "bus.tls_key is given without bus.tls_certificate"),
    ],
)
def test_what_cannot_be_used_is_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NatsConfig(**settings)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_stream_is_named_after_the_prefix() -> None:
    assert NatsConfig(prefix="desk1.tidewire").stream_name == "desk1-tidewire"
    assert NatsConfig(stream="events").stream_name == "events"


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"TLS cannot be set up from .*none\.pem"):
        tls_context(NatsConfig(ca=tmp_path / "none.pem"))
