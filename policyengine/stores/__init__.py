"""State that outlives a decision: read before it, changed after it in one atomic step."""
