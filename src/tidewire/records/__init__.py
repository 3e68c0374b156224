"""Record types, roles, batches, events, instruments, calendars and the clock: pure, no I/O."""

from tidewire.records import market, ops, reference
from tidewire.records.record import MarketRecord, Record, RecordType, record_type, rule, types

__all__ = ["MarketRecord", "Record", "RecordType", "market", "ops", "record_type", "reference", "rule", "types"]
