"""A decision log to tests."""
