"""What the stores in SQLite and PostgreSQL share: their tables, their statements, and the steps of decisions."""
