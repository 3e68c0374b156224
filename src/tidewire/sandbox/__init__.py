"""A local upstream that speaks the real protocols, for demo, tests and benchmarks.

`server.Sandbox` serves Binance's REST and WebSocket on one loopback port: spot either from a seeded synthetic market
(`market`) or from a recording (`tape`), futures from markets of their own (`futures`), with fault switches (`faults`)
and ledgers of what was sent.
"""
