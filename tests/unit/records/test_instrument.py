from __future__ import annotations

import contextlib
import re
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.errors import AmbiguousInstrument, InstrumentError
from tidewire.records.instrument import InstrumentBook, canonical, china_venues, recodes, stock_venue, uid


def book() -> InstrumentBook:
    made = InstrumentBook()
    made.add("BTC-USDT.BINANCE", "BTCUSDT")
    made.add("ETH-USDT.BINANCE", "ETHUSDT")
    made.add("ETH-USDT.OKX", "ETH-USDT")
    made.add("BTC-USDT-SWAP.OKX", "BTC-USDT-SWAP")
    made.add("600000.SH", "600000")
    return made


@pytest.mark.parametrize(
    "spelling",
    ["BTC-USDT.BINANCE", "btc-usdt.binance", "BTCUSDT", "btcusdt", "BTC/USDT", "btc_usdt", "BTC-USDT", "BTC USDT",
     "binance:BTCUSDT", "BINANCE:BTC/USDT", "Binance:btc-usdt", "BTCUSDT.BINANCE", "BTC/USDT.BINANCE", " BTCUSDT "],
)  # fmt: skip
def test_every_common_spelling_of_a_pair_is_known(spelling: str) -> None:
    assert book().resolve(spelling) == "BTC-USDT.BINANCE"


@pytest.mark.parametrize(
    "spelling",
    ["600000.SH", "600000.sh", "600000.SS", "600000.XSHG", "600000.SSE", "sh600000", "SH600000", "sh.600000",
     "sh-600000", "1.600000", "600000", "SHSE.600000", "XSHG.600000"],
)  # fmt: skip
@pytest.mark.parametrize("known", [True, False])
def test_every_common_spelling_of_a_stock_is_known_also_without_a_book(spelling: str, known: bool) -> None:
    made = book() if known else InstrumentBook()
    assert made.resolve(spelling) == "600000.SH"


@pytest.mark.parametrize(
    ("spelling", "instrument"),
    [
        ("sz000001", "000001.SZ"),
        ("0.000001", "000001.SZ"),
        ("000001.XSHE", "000001.SZ"),
        ("SZSE.000001", "000001.SZ"),
        ("1.000001", "000001.SH"),
        ("300750", "300750.SZ"),
        ("399001", "399001.SZ"),
        ("688981", "688981.SH"),
        ("510300", "510300.SH"),
        ("159915", "159915.SZ"),
        ("900901", "900901.SH"),
        ("200002", "200002.SZ"),
        ("113050", "113050.SH"),
        ("123045", "123045.SZ"),
        ("920002", "920002.BJ"),
        ("bj920002", "920002.BJ"),
        ("0.920002", "920002.BJ"),
        ("430046", "430046.BJ"),
        ("430047", "920047.BJ"),
        ("835185.XBSE", "920185.BJ"),
        ("835186.XBEI", "835186.BJ"),
        ("btc-usdt-swap", "BTC-USDT-SWAP.OKX"),
        ("okx:ETH-USDT", "ETH-USDT.OKX"),
        ("ETHUSDT.OKX", "ETH-USDT.OKX"),
    ],
)
def test_other_spellings(spelling: str, instrument: str) -> None:
    assert book().resolve(spelling) == instrument


@pytest.mark.parametrize(
    ("spelling", "candidates"),
    [
        ("ETHUSDT", ("ETH-USDT.BINANCE", "ETH-USDT.OKX")),
        ("eth/usdt", ("ETH-USDT.BINANCE", "ETH-USDT.OKX")),
        ("000001", ("000001.SH", "000001.SZ")),
        ("000300", ("000300.SH", "000300.SZ")),
    ],
)
def test_what_could_mean_several_is_refused_with_all_of_them(spelling: str, candidates: tuple[str, ...]) -> None:
    with pytest.raises(AmbiguousInstrument) as caught:
        book().resolve(spelling)
    assert caught.value.candidates == candidates
    assert all(candidate in str(caught.value) for candidate in candidates)
    assert repr(spelling) in str(caught.value)


@pytest.mark.parametrize("known", [["000001.SZ"], ["000001.SH"], ["000001.SZ", "000001.SH"]])
def test_a_code_of_two_exchanges_stays_ambiguous_whichever_the_book_knows(known: list[str]) -> None:
    made = InstrumentBook()
    for name in known:
        made.add(name, "000001")
    with pytest.raises(AmbiguousInstrument) as caught:
        made.resolve("000001")
    assert caught.value.candidates == ("000001.SH", "000001.SZ")
    assert [made.resolve(text) for text in ("sz000001", "1.000001")] == ["000001.SZ", "000001.SH"]


def test_a_code_of_a_third_exchange_is_what_the_book_says() -> None:
    made = InstrumentBook()
    made.add("005930.KS", "005930")
    assert made.resolve("005930") == "005930.KS"


@pytest.mark.parametrize("spelling", ["", "XYZ", "BTC", "binance:", ":", ".", "60000", "6000000", "sh60000", "77777"])
def test_what_nothing_is_spelled_like_is_refused_with_the_form(spelling: str) -> None:
    with pytest.raises(InstrumentError, match=r"Write SYMBOL\.VENUE") as caught:
        book().resolve(spelling)
    assert not isinstance(caught.value, AmbiguousInstrument)


def test_a_near_miss_is_answered_with_the_nearest() -> None:
    with pytest.raises(InstrumentError, match=r"Did you mean 'BTC-USDT\.BINANCE'\?"):
        book().resolve("BTC-USTD.BINANCE")
    with pytest.raises(InstrumentError, match=r"Did you mean 'BTC-USDT\.BINANCE'\?"):
        book().uid("BTC-USTD.BINANCE")


@pytest.mark.parametrize("name", ["BTCUSDT", "", ".BINANCE", "BTC-USDT."])
def test_only_canonical_ids_are_added(name: str) -> None:
    made = InstrumentBook()
    with pytest.raises(InstrumentError, match="is not a canonical id"):
        made.add(name, "BTCUSDT")
    assert len(made) == 0


def test_a_rename_keeps_the_uid_and_the_old_name_means_the_new_one_from_its_day() -> None:
    made = book()
    stable = made.uid("600000.SH")
    made.add("601000.SH", "601000", stable)
    made.alias("PUFA", "600000.SH", date(2020, 1, 1))
    made.alias("pu-fa", "601000.SH", date(2026, 7, 1))
    assert made.uid("601000.SH") == stable
    assert made.resolve("pufa", date(2026, 6, 30)) == "600000.SH"
    assert made.resolve("PUFA", date(2026, 7, 1)) == "601000.SH"
    assert made.resolve("PU/FA") == "601000.SH"
    with pytest.raises(InstrumentError):
        made.resolve("PUFA", date(2019, 12, 31))


def test_aliases_may_be_told_in_any_order() -> None:
    made = book()
    made.alias("OLD", "ETH-USDT.OKX", date(2026, 1, 1))
    made.alias("OLD", "BTC-USDT.BINANCE", date(2024, 1, 1))
    days = [date(2024, 1, 1), date(2025, 12, 31), date(2026, 1, 1)]
    assert [made.resolve("old", day) for day in days] == ["BTC-USDT.BINANCE", "BTC-USDT.BINANCE", "ETH-USDT.OKX"]


def test_a_recode_hands_a_venues_spelling_over() -> None:
    made = InstrumentBook()
    made.add("LUNA-USDT.BINANCE", "LUNAUSDT")
    before = made.uid("LUNA-USDT.BINANCE")
    made.add("LUNC-USDT.BINANCE", "LUNCUSDT", before)
    made.alias("LUNAUSDT", "LUNC-USDT.BINANCE", date(2022, 5, 27))
    made.alias("LUNAUSDT", "LUNA-USDT.BINANCE", date(2022, 5, 28))
    assert made.resolve("LUNAUSDT", date(2022, 5, 27)) == "LUNC-USDT.BINANCE"
    assert made.resolve("LUNAUSDT") == "LUNA-USDT.BINANCE"
    assert made.uid("LUNC-USDT.BINANCE") == before


def test_adding_again_changes_nothing() -> None:
    made = book()
    before = made.uid("BTC-USDT.BINANCE")
    made.add("BTC-USDT.BINANCE", "BTCUSDT")
    assert (len(made), made.uid("BTC-USDT.BINANCE")) == (5, before)
    assert made.resolve("BTCUSDT") == "BTC-USDT.BINANCE"


def test_a_venues_own_spelling_is_looked_up_exactly() -> None:
    made = book()
    assert made.native("BINANCE", "BTCUSDT") == "BTC-USDT.BINANCE"
    assert made.native("BINANCE", "btcusdt") is None
    assert made.native("OKX", "BTCUSDT") is None
    assert made.natives("OKX") == {"ETH-USDT": "ETH-USDT.OKX", "BTC-USDT-SWAP": "BTC-USDT-SWAP.OKX"}


def test_known_instruments_are_listed_by_venue() -> None:
    made = book()
    assert made.instruments("OKX") == ["BTC-USDT-SWAP.OKX", "ETH-USDT.OKX"]
    assert len(made.instruments()) == len(made) == 5
    assert "600000.SH" in made
    assert "600000" not in made


# -- codes that changed --------------------------------------------------------------------------------------------

SWITCH = date(2025, 10, 9)
SPELLED = ("{0}", "{0}.BJ", "bj{0}", "bj.{0}", "{0}.XBSE", "0.{0}", "BSE.{0}")


def test_the_exchange_changed_248_codes_and_no_rule_gives_the_new_ones() -> None:
    known = recodes()
    assert len({each.old for each in known}) == len({each.new for each in known}) == len(known) == 248
    assert all(re.fullmatch(r"(43|83|87)\d{4}\.BJ", each.old) for each in known)
    assert all(re.fullmatch(r"920\d{3}\.BJ", each.new) for each in known)
    assert {each.since for each in known} == {date(2025, 5, 6), SWITCH}
    others = {each.old: each.new for each in known if each.old[3:] != each.new[3:]}
    assert (len(others), others["831167.BJ"], others["835857.BJ"]) == (26, "920267.BJ", "920057.BJ")


@pytest.mark.parametrize("form", SPELLED)
def test_an_old_code_means_the_new_one_from_the_day_of_the_change(form: str) -> None:
    made, spelling = InstrumentBook(), form.format("430047")
    assert made.resolve(spelling) == "920047.BJ"
    assert made.resolve(spelling, on=SWITCH) == "920047.BJ"
    assert made.resolve(spelling, on=date(2025, 10, 8)) == "430047.BJ"


def test_six_stocks_were_first() -> None:
    made = InstrumentBook()
    assert made.resolve("833819", on=date(2025, 5, 6)) == "920819.BJ"
    assert made.resolve("833819", on=date(2025, 5, 5)) == "833819.BJ"


def test_an_old_id_under_which_rows_were_collected_stays_readable() -> None:
    made = InstrumentBook()
    made.add("430047.BJ", "430047")
    assert made.resolve("430047.BJ") == "430047.BJ"
    assert made.resolve("430047") == "920047.BJ"


def test_a_recode_keeps_the_uid() -> None:
    assert uid("BJ", "920047") == uid("BJ", "430047") != uid("BJ", "920048")


def test_one_table_of_codes_says_where_stocks_are_and_what_is_ambiguous() -> None:
    codes = ("600000", "900901", "000001", "301001", "200011", "920002", "830799", "430047", "510300", "113050")
    assert [stock_venue(code) for code in codes] == [
        "SH", "SH", "SZ", "SZ", "SZ", "BJ", "BJ", "BJ", "SH", "SH",
    ]  # fmt: skip
    assert [stock_venue(code) for code in ("950110", "700000", "60000", "６00000")] == [None] * 4


@given(st.integers(0, 999_999).map("{:06}".format))
def test_a_stock_is_where_its_code_can_be(code: str) -> None:
    venue, venues = stock_venue(code), china_venues(code)
    assert venue in venues if venue is not None else len(venues) <= 1


def test_uids_are_stable_over_versions_and_differ_between_venues() -> None:
    assert uid("BINANCE", "BTCUSDT") == "u0cd8c5673e5c1d7c"
    assert len({uid(venue, native) for venue in ("BINANCE", "OKX") for native in ("BTCUSDT", "ETHUSDT")}) == 4


def test_canonical_ids_are_upper_case() -> None:
    assert canonical("btc-usdt", "binance") == "BTC-USDT.BINANCE"


@given(st.integers(0, 999_999).map("{:06}".format))
@settings(deadline=None)
def test_a_bare_code_is_resolved_to_its_one_exchange_or_refused(code: str) -> None:
    venues = china_venues(code)
    assert set(venues) <= {"SH", "SZ", "BJ"}
    if len(venues) == 1:
        assert InstrumentBook().resolve(code, on=date(2020, 1, 1)) == f"{code}.{venues[0]}"
    else:
        with pytest.raises(InstrumentError):
            InstrumentBook().resolve(code)


@given(st.text(max_size=20))
@settings(deadline=None)
def test_any_text_is_resolved_or_refused(text: str) -> None:
    made = book()
    with contextlib.suppress(InstrumentError):
        assert "." in made.resolve(text)


@given(st.sampled_from(["BTC", "ETH", "X1"]), st.sampled_from(["-", "/", "_", ":", "", " "]), st.booleans())
@settings(deadline=None)
def test_separators_and_case_do_not_matter(base: str, separator: str, low: bool) -> None:
    made = InstrumentBook()
    made.add(f"{base}-USDT.OKX", f"{base}-USDT")
    spelling = f"{base}{separator}USDT"
    assert made.resolve(spelling.lower() if low else spelling) == f"{base}-USDT.OKX"
