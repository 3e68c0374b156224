"""Configuration, wiring, supervision and the command line: the only room that imports all others."""
