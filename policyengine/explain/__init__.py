"""Explains the trace of a decision in words, for people and machines."""
