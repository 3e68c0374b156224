from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tidewire.errors import NotFound
from tidewire.records import MarketRecord, Record, RecordType, record_type, rule, types
from tidewire.records.market import Trade
from tidewire.records.record import LINEAGE, MAX_RULES, forget
from tidewire.records.roles import Count, Flag, Price, Size, Text, Time
from unit.records.kit import frame_of, good_row

HEAD = "from tidewire.records import MarketRecord, rule\nfrom tidewire.records.roles import *\n"


@pytest.fixture(autouse=True)
def _only_the_types_there_were() -> Iterator[None]:
    before = dict(types())
    yield
    for name in types().keys() - before.keys():
        forget(name)
    assert types() == before


def rain_fall() -> type[Record]:
    class RainFall(MarketRecord, version=2, order="height", contiguous=True):
        """How much rain fell on a field.

        More about rain.
        """

        height = Count("Place in the chain.", key=True)
        depth = Price("Depth of the water.", unit="mm", above=0)
        was_dry = Flag("Whether it was dry before.", nullable=True)
        final = Flag("Whether it stopped.")

        @rule
        def dry_or_deep(cls: Any) -> pl.Expr:  # noqa: N805
            return pl.col("was_dry") | (pl.col("depth") > 1)

    return RainFall


def test_defining_the_class_is_all_it_takes() -> None:
    kind = rain_fall().type
    assert types()["rain_fall"] is record_type("rain_fall") is kind
    assert (kind.name, kind.version, kind.table) == ("rain_fall", 2, "rain_fall_v2")
    assert (kind.family, kind.about) == ("test_record", "How much rain fell on a field.")
    assert list(kind.fields) == [
        *("source", "instrument", "event_time"),
        *("height", "depth", "was_dry", "final"),
        *LINEAGE,
    ]
    assert kind.key == ("source", "instrument", "height")
    assert kind.series == ("source", "instrument")
    assert kind.payload == ("event_time", "depth", "was_dry", "final")
    assert kind.schema["depth"] == pl.Decimal(38, 12)
    assert repr(kind) == "<RecordType rain_fall@2>"


def test_arrow_knows_which_columns_may_be_null_and_uses_plain_layouts() -> None:
    arrow = rain_fall().type.arrow
    assert (arrow.field("depth").type, arrow.field("depth").nullable) == (pa.decimal128(38, 12), False)
    assert arrow.field("was_dry").nullable
    assert arrow.field("event_time").type == pa.timestamp("us", "UTC")
    assert arrow.field("source").type == pa.large_string()
    assert arrow.names == list(rain_fall().type.schema)


def test_custom_rules_are_checked_like_the_others() -> None:
    kind = rain_fall().type
    row = good_row(kind) | {"depth": "0.5"}
    rows = frame_of(kind, [row | {"was_dry": dry} for dry in (True, False)])
    mask = kind.check(rows)
    assert mask[0] == 0
    assert kind.reasons(rows[1:]) == [["dry_or_deep"]]
    assert mask[1] == 1 << list(kind.rules).index("dry_or_deep")


def test_a_forgotten_type_is_gone_and_can_be_defined_again() -> None:
    rain_fall()
    forget("rain_fall")
    with pytest.raises(NotFound):
        record_type("rain_fall")
    forget("rain_fall")
    rain_fall()
    rain_fall()  # a plugin that is loaded again
    assert "rain_fall" in types()


def test_an_unknown_type_is_answered_with_the_nearest() -> None:
    with pytest.raises(NotFound, match=r"No record type 'trades'\. Did you mean 'trade'\? Valid: agg_trade, .*trade"):
        record_type("trades")
    with pytest.raises(NotFound) as caught:
        record_type("xyzzy")
    assert "Did you mean" not in str(caught.value)


def test_abstract_records_are_no_types() -> None:
    class Weather(MarketRecord, abstract=True):
        station = Text("Where.", key=True)

    class SnowFall(Weather):
        """Snow."""

        depth = Size("Depth.", unit="mm")

    assert "weather" not in types()
    assert SnowFall.type.key == ("source", "instrument", "station")
    assert not hasattr(Record, "type")


def test_a_series_may_be_named() -> None:
    class DewFall(MarketRecord, order="n", series=("source",), instant=True, final="done", reference=True):
        """Dew."""

        n = Count("Number.")
        done = Flag("Whether it is over.")

    kind = DewFall.type
    assert (kind.series, kind.final, kind.instant, kind.reference) == (("source",), "done", True, True)
    assert kind.version == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Hail(MarketRecord, ordr='n'):\n 'Hail.'\n n = Count('N.')", "'ordr'. Did you mean 'order'? Valid: "),
        ("class Hail(MarketRecord, order='m'):\n 'Hail.'\n n = Count('N.')", "order='m' is no column"),
        ("class Hail(MarketRecord, final='done'):\n 'Hail.'\n don = Flag('N.')", "'done' is no column. Did you mean "),
        ("class Hail(MarketRecord, final='n'):\n 'Hail.'\n n = Count('N.')", "final='n' is a count; it must be a Flag"),
        ("class Hail(MarketRecord, series=('x',)):\n 'Hail.'\n n = Count('N.')", "series='x' is no column"),
        ("class Hail(MarketRecord):\n n = Count('N.')", "Hail has no docstring"),
        ("class Hail(MarketRecord):\n 'Hail.'\n source = Text('S.')", "'source' is not in the key"),
        ("class Trade(MarketRecord):\n 'Mine.'\n n = Count('N.')", "'trade' is already defined by tidewire"),
    ],
)  # fmt: skip
def test_mistakes_are_told_when_the_class_is_defined(text: str, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        exec(HEAD + text, {"__name__": "some_plugin"})
    assert words in str(caught.value)
    assert record_type("trade") is Trade.type
    assert "hail" not in types()


def test_more_rules_than_the_mask_has_bits_are_refused() -> None:
    kind = made("\n".join(f" c{n} = Count('N.')" for n in range(MAX_RULES // 2)))
    with pytest.raises(TypeError, match=r"Wide has \d+ rules; the mask of reasons has 64 bits"):
        _ = kind.rules


def test_the_64th_rule_has_a_bit() -> None:
    left = MAX_RULES - len(made(" pass").rules)
    pairs = "\n".join(f" c{n} = Count('N.')" for n in range(left // 2))
    odd = " odd = Count('N.', nullable=True)" if left % 2 else ""
    kind = made(f"{pairs}\n{odd}")
    assert len(kind.rules) == MAX_RULES
    empty = pl.DataFrame([pl.Series(name, [None], dtype=dtype) for name, dtype in kind.schema.items()])
    broken = empty.with_columns(pl.lit(-1, dtype=pl.Int64).alias(name) for name in kind.fields if name.startswith("c"))
    if odd:
        broken = broken.with_columns(odd=pl.lit(-1, dtype=pl.Int64))
    assert kind.check(broken)[0] >> 63 == 1


def made(body: str) -> RecordType:
    scope: dict[str, Any] = {"__name__": "some_plugin"}
    exec(f"{HEAD}class Wide(MarketRecord):\n 'Wide.'\n{body}", scope)
    return scope["Wide"].type


def test_a_key_column_may_be_a_time() -> None:
    class FogBank(MarketRecord, order="seen_at"):
        """Fog."""

        seen_at = Time("When it was seen.", key=True)

    assert FogBank.type.key == ("source", "instrument", "seen_at")
    assert FogBank.type.empty().schema == FogBank.type.schema
