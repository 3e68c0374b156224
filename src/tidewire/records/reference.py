"""Reference data that is about no instrument: what exchanges say of themselves."""

from __future__ import annotations

from tidewire.records.record import Record
from tidewire.records.roles import Day, Flag, Text


class TradingDay(Record, reference=True):
    """Whether an exchange opens on a day, as it says itself; a change of plan is a revision.

    ``event_time`` is when it was read.
    """

    exchange = Text("The exchange, by its market identifier code.", key=True, example="XSHE")
    day = Day("The day, in the time zone of the exchange.", key=True)
    session = Flag("Whether there is trading.")
