"""Exports the decision log in the formats of other systems."""
