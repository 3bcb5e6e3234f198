"""The tables, statements and steps of decisions that the stores in SQLite and PostgreSQL share."""
