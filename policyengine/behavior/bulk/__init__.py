"""Learns from whole logs in one of three ways: in this thread, with DuckDB, or on Spark. All give the same rows and the
same model."""
