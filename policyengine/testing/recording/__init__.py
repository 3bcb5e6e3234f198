"""Convert a decision log to tests."""
