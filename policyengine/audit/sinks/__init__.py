"""Sinks of the decision log, which send its lines to other systems. A durable cursor records how far each sink has
sent."""
