"""By which ways sites are asked, as the configuration says: proxies, browsers to pass for, the one real browser."""

from __future__ import annotations

from tidewire.collect import Families, Identities, Proxies
from tidewire.collect.browser import Browser
from tidewire.collect.config import seconds
from tidewire.collect.identity import BROWSERS, own
from tidewire.collect.proxies import Pool, PoolConfig
from tidewire.errors import ConfigError
from tidewire.records.clock import Clock, Rng
from tidewire.runtime.config import Loaded


def families_of(loaded: Loaded, clock: Clock, rng: Rng) -> Families:
    """What all sources share when they ask; `ConfigError` for what cannot be."""
    config = loaded.config
    pools = {name: Pool(name, pool_config(loaded, name), clock, rng) for name in config.proxies}
    section = config.identities
    choice = own(section.list) or BROWSERS if section.enabled else ()
    identities = Identities(choice, _above_zero(section.keep, "identities.keep"))
    return Families(Proxies(pools), identities, Browser(config.browser.executable, config.browser.pages))


def pool_config(loaded: Loaded, name: str) -> PoolConfig:
    """Where the proxies of a pool come from."""
    section, where = loaded.config.proxies[name], f"proxies.{name}"
    if sum(map(bool, (section.list, section.file, section.url))) != 1:
        raise ConfigError(f"{where}: write one of list, file and url.")
    if section.url and not section.url.startswith(("http://", "https://")):
        raise ConfigError(f"{where}.url: write http:// or https:// and an address.")
    return PoolConfig(
        listed=tuple(section.list),
        file=(loaded.base / section.file).absolute() if section.file else None,
        url=section.url,
        refresh_s=_above_zero(section.refresh, f"{where}.refresh"),
        timeout_s=_above_zero(section.timeout, f"{where}.timeout"),
        direct=section.direct,
    )


def _above_zero(text: str, where: str) -> float:
    found = seconds(text, where)
    if found <= 0:
        raise ConfigError(f"{where}: {text!r}: write a time above zero, such as 5m.")
    return found
