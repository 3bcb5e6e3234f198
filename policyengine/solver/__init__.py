"""What a condition can be: satisfiability and value partitions, for the checker, lints, diff and tests."""
