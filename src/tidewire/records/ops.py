"""What Tidewire says about itself: gaps, quarantined rows, findings of checks."""

from __future__ import annotations

from tidewire.records.record import Record
from tidewire.records.roles import Count, Json, Sequence, Symbol, Text, Time

CAUSES = ("sequence", "grid", "disconnect", "silence", "down", "overflow", "total")
STATES = ("open", "filling", "filled", "unfillable")


class Gap(Record):
    """Something known to be missing. A later row of the same key is the gap's newer state.

    ``event_time`` is where the hole begins.
    """

    instrument = Symbol("Instrument whose data is missing.")
    record_type = Text("Record type that is missing.", key=True, example="trade")
    series = Text("What else names the series: a kline's interval; empty otherwise.", nullable=True, example="1m")
    gap_id = Text("Names the hole: first missing sequence or time, and the series.", key=True, example="3735683260")
    cause = Text(
        "How it was noticed: a jump in the sequence, a missing bar, a broken or silent connection, we were down, "
        "a queue overflowed, the site's own total.",
        choices=CAUSES,
    )
    state = Text("What became of it.", choices=STATES)
    until_time = Time("Where the hole ends, exclusive.")
    first_sequence = Sequence("First missing sequence, where there is one.", nullable=True)
    last_sequence = Sequence("Last missing sequence, inclusive.", nullable=True)
    missing = Count("How many rows are missing, where that is known.", nullable=True)
    detail = Text("Why it is in this state, where that needs a word.", nullable=True, example="no history to be had")


DECIDED = ("released", "corrected", "rejected")
"""States of a quarantined row that somebody decided about; before that it is open."""


class Quarantined(Record):
    """A row, or a whole frame, that failed rules: nothing is dropped silently.

    ``event_time`` is the receive time of the frame, because the row's own times cannot be trusted. A later row of the
    same key is a decision about it; its ``ingested_at`` is when that was.
    """

    journal = Text("Journal the frame is in.", key=True, example="fb00ac44-e1ad-416c-8f8e-b9b14b3802b6")
    frame = Sequence("Sequence of the journal frame.", key=True)
    record_type = Text(
        "Record type of the row; 'frame' when the whole frame could not be read.", key=True, example="trade"
    )
    row = Count("Place of the row inside its frame.", key=True)
    instrument = Text("Instrument as far as it is known; not checked.", nullable=True, example="BTC-USDT.BINANCE")
    reasons = Json("Names of the failed rules, and what was found, as a JSON object.")
    content = Json("The row as it was parsed; the bytes stay in the journal.", nullable=True)
    state = Text("What became of it.", choices=("open", *DECIDED))
    decided_by = Text("Who decided, and why.", nullable=True)
    decision_journal = Text(
        "Journal the decision is in.", nullable=True, example="fb00ac44-e1ad-416c-8f8e-b9b14b3802b6"
    )
    decision_frame = Sequence("Frame of the decision: rows that came of it carry this one.", nullable=True)


SEVERITIES = ("flag", "reject")


class Finding(Record):
    """What a check found about rows: a flagged row is stored all the same, a rejected one is in quarantine.

    ``event_time`` is that of the row, or the start of what was looked at as a whole. A source that breaks does not
    fill the table: of each rule a minute shows so many rows, and one more row counts the rest.
    """

    event_time = Time("What moment the row is about.", key=True)
    journal = Text("Journal the frame is in.", key=True, example="fb00ac44-e1ad-416c-8f8e-b9b14b3802b6")
    frame = Sequence("Sequence of the journal frame that showed it.", key=True)
    record_type = Text("Record type of the row.", key=True, example="ticker")
    row = Count("Place of the row inside its frame.", key=True)
    rule = Text("Name of the check, see docs/data-model.md.", key=True, example="vwap")
    instrument = Text("Instrument of the row; null where many are meant together.", nullable=True, example="600000.SH")
    severity = Text("What became of the rows: stored all the same, or quarantined.", choices=SEVERITIES)
    observed = Text("What was found.", nullable=True, example="vwap 941.2")
    expected = Text("What was expected.", nullable=True, example="8.66 to 8.82")
    detail = Text("What else helps to judge it.", nullable=True)
    count = Count("How many rows it stands for.", min=1)
