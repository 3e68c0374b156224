"""Configuration sections: what is wrong is said with its place, what is valid, and the nearest name."""

from __future__ import annotations

from typing import Any

import pytest

from tidewire.collect.config import Section, SourceConfig, read, seconds
from tidewire.errors import ConfigError

GOOD: dict[str, Any] = {
    "source": {"type": "market", "name": "binance", "display_name": "币安"},
    "api": {"base_url": "http://x", "rate_limit": {"requests_per_second": 20, "burst": 50}},
    "collectors": {"trade": {"symbols": ["BTCUSDT"]}},
}


def test_a_source_file() -> None:
    config = read(GOOD, SourceConfig, "binance.yaml")
    assert config.source.display_name == "币安"
    assert (config.api.rate_limit.requests_per_second, config.api.rate_limit.burst) == (20.0, 50)
    assert config.collectors == {"trade": {"symbols": ["BTCUSDT"]}}
    assert config.api.key == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": 1}, "f.yaml.sources: no such key. Did you mean 'source'? Valid: source, api, collectors."),
        ({"api": {"base_ulr": "x"}}, "f.yaml.api.base_ulr: no such key. Did you mean 'base_url'?"),
        ({"api": {"rate_limit": {"brust": 1}}}, "f.yaml.api.rate_limit.brust: no such key. Did you mean 'burst'?"),
        ({"api": {"rate_limit": {"burst": "many"}}}, "f.yaml.api.rate_limit.burst: Expected `int`, got `str`."),
        ({"api": {"rate_limit": 5}}, "f.yaml.api.rate_limit: expected keys and values (requests_per_second, burst)"),
        ({"source": {"name": "binance"}}, "f.yaml.source: Object missing required field `type`."),
        ({"api": []}, "f.yaml.api: expected keys and values"),
        ({"collectors": ["trade"]}, "f.yaml.collectors: Expected `object`, got `array`."),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read({**GOOD, **change}, SourceConfig, "f.yaml")
    assert str(caught.value).startswith(message)


def test_text_from_the_environment_becomes_what_is_asked_for() -> None:
    config = read({**GOOD, "api": {"rate_limit": {"burst": "7", "requests_per_second": "2.5"}}}, SourceConfig, "f")
    assert (config.api.rate_limit.burst, config.api.rate_limit.requests_per_second) == (7, 2.5)


@pytest.mark.parametrize(
    "change",
    [
        {"api": "hunter2"},
        {"api": {"rate_limit": "hunter2"}},
        {"api": {"secret": {"is": "hunter2"}}},
        {"api": {"secret": ["hunter2"]}},
        {"source": "hunter2"},
    ],
)
def test_values_are_never_shown(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        read({**GOOD, **change}, SourceConfig, "f.yaml")
    assert "hunter2" not in str(caught.value)


class Picky(Section, frozen=True):
    """Checks itself."""

    size: int = 0

    def __post_init__(self) -> None:
        if self.size > 9:
            raise ConfigError(f"size {self.size}: write 0 to 9.")


def test_what_a_section_says_itself_gets_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^f\.yaml: size 10: write 0 to 9\.$"):
        read({"size": 10}, Picky, "f.yaml")


@pytest.mark.parametrize(("text", "expected"), [("5s", 5.0), ("500ms", 0.5), ("1m", 60.0), (2, 2.0), (0.25, 0.25)])
def test_durations(text: str | float, expected: float) -> None:
    assert seconds(text, "x") == expected


def test_a_duration_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"^store\.timeout: .*5 parsecs"):
        seconds("5 parsecs", "store.timeout")
