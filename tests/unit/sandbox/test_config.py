from __future__ import annotations

import pytest

from tidewire.errors import InputError
from tidewire.sandbox.config import (
    E8,
    Faults,
    SandboxConfig,
    changed_faults,
    split_symbol,
    symbol_info,
    symbol_names,
)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "example.org", ""])
def test_listens_on_loopback_only(host):
    with pytest.raises(InputError, match="loopback only"):
        SandboxConfig(host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_accepted(host):
    assert SandboxConfig(host=host).host == host


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"speed": -1.0}, {"pace": 0}, {"history_hours": 0}, {"symbols": ()}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        SandboxConfig(**wrong)


def test_symbols_split_at_their_quote_asset():
    assert split_symbol("ETHUSDT") == ("ETH", "USDT")
    assert split_symbol("ETHBTC") == ("ETH", "BTC")
    with pytest.raises(InputError, match="FDUSD, USDT"):
        split_symbol("ETHXYZ")


def test_more_symbols_are_generated_and_stay_the_same():
    names = symbol_names(40)
    assert len(set(names)) == 40
    assert names[:2] == ("BTCUSDT", "ETHUSDT")
    assert symbol_info(names[39]) == symbol_info(names[39])
    assert symbol_info(names[39]).open_e8 != symbol_info(names[38]).open_e8


@pytest.mark.parametrize("name", symbol_names(12))
def test_price_times_quantity_is_a_whole_number_of_1e_8(name):
    info = symbol_info(name)
    assert info.tick_e8 * info.step_e8 % E8 == 0


def test_a_fault_switch_with_a_typo_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'duplicate'"):
        changed_faults(Faults(), {"duplicates": 0.1})


def test_a_fault_switch_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"drop"):
        changed_faults(Faults(), {"drop": 1.5})


def test_other_fault_switches_stay():
    faults = changed_faults(Faults(drop=0.5), {"skew_s": 2, "fail_rest": {"status": 503, "times": 2}})
    assert (faults.drop, faults.skew_s) == (0.5, 2.0)
    assert faults.fail_rest is not None
    assert faults.fail_rest.times == 2
