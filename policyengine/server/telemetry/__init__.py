"""Counters, metrics, trace headers and the server's log."""
