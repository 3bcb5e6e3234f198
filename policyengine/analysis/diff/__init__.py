"""Compares two policies by their decisions on all requests."""
