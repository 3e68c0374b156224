"""By which ways sites are asked, as a platform file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidewire.collect.identity import BROWSERS
from tidewire.errors import ConfigError
from tidewire.records.clock import ManualClock, SeededRng
from tidewire.runtime.config import Loaded, load
from tidewire.runtime.installed import registry
from tidewire.runtime.platform import chosen_apps
from tidewire.runtime.reach import families_of


def loaded(folder: Path, **config: Any) -> Loaded:
    path = folder / "tidewire.json"
    path.write_bytes(msgspec.json.encode(config))
    return load(path, {"PROXY_PASSWORD": "hunter2"})


def built(folder: Path, **config: Any) -> Any:
    return families_of(loaded(folder, **config), ManualClock(), SeededRng(1))


async def test_pools_come_from_lists_files_and_addresses(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("h:1\n")
    families = built(
        tmp_path,
        proxies={
            "own": {"list": ["http://user:${PROXY_PASSWORD}@h:1"], "direct": True},
            "filed": {"file": "list.txt"},
            "asked": {"url": "https://a.com/list?token=hunter2", "refresh": "90s", "timeout": "3s"},
        },
    )
    own, asked = families.proxies.get("own").config, families.proxies.get("asked").config
    assert own.listed == ("http://user:hunter2@h:1",)
    assert (own.direct, asked.direct, asked.refresh_s, asked.timeout_s) == (True, False, 90.0, 3.0)
    assert "hunter2" not in repr(own) + repr(asked)
    assert (await families.proxies.get("filed").take("a.com", frozenset({"http"}))).url == "http://h:1"


def test_browsers_to_pass_for_are_ours_or_the_users_or_none(tmp_path: Path) -> None:
    assert list(built(tmp_path).identities.choice) == list(BROWSERS)
    mine = {"enabled": True, "keep": "10m", "list": [{"User-Agent": "mine"}]}
    identities = built(tmp_path, identities=mine).identities
    assert ([each.headers for each in identities.choice], identities.keep_s) == ([{"User-Agent": "mine"}], 600.0)
    assert list(built(tmp_path, identities={"enabled": False}).identities.choice) == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"proxies": {"p": {}}}, r"proxies\.p: write one of list, file and url"),
        ({"proxies": {"p": {"list": ["h:1"], "file": "x"}}}, r"proxies\.p: write one of list, file and url"),
        ({"proxies": {"p": {"url": "a.com"}}}, r"proxies\.p\.url: write http"),
        ({"proxies": {"p": {"list": ["h"]}}}, r"proxies\.p\.list: 'http://h' is no proxy"),
        ({"proxies": {"p": {"file": "x", "refresh": "0s"}}}, r"proxies\.p\.refresh: .* above zero"),
        ({"proxies": {"p": {"lst": ["h:1"]}}}, r"proxies\.p\.lst: no such key\. Did you mean 'list'"),
        ({"identities": {"keep": "long"}}, r"identities\.keep"),
        ({"browser": {"pages": 0}}, r"browser\.pages"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(tmp_path, **config)


@pytest.mark.parametrize(
    ("source", "proxy", "message"),
    [
        ("eastmoney.a_share_quotes", "pool:chep", r"proxy: no pool 'chep'\. Did you mean 'cheap'"),
        ("binance", "pool:cheap", r"api\.proxy: a pool is for declared sources; binance takes proxy"),
    ],
)
def test_a_check_knows_the_pools(tmp_path: Path, source: str, proxy: str, message: str) -> None:
    config = {"source": {"type": "x", "name": source}, "api": {"proxy": proxy}}
    found = registry()
    found.discover(None)
    with pytest.raises(ConfigError, match=message):
        chosen_apps(loaded(tmp_path, proxies={"cheap": {"list": ["h:1"]}}, sources=[config]), found)
