"""Sinks and stores: rows and position in one transaction, history, latest values."""
