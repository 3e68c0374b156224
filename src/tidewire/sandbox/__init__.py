"""A local upstream that speaks the real protocols, for demo, tests and benchmarks.

`server.Sandbox` serves Binance spot's REST and WebSocket on one loopback port, either from a seeded synthetic
market (`market`) or from a recording (`tape`), with fault switches (`faults`) and a ledger of what was sent.
"""
