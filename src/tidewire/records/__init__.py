"""Record types, roles, batches, events, instruments, calendars and the clock: pure, no I/O."""
