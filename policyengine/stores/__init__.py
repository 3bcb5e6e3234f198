"""State shared by decisions: read before a decision, changed after it in one atomic step."""
