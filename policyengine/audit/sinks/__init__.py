"""Sinks of the decision log: they send its lines to other systems, from a durable cursor in its files."""
