"""Converts a decision log to tests."""
