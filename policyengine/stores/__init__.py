"""State that decisions share: read before a decision, and changed after it in one atomic step."""
