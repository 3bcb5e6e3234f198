"""Analysis of conditions: satisfiability and value partitions, for the checker, lints, diff and tests."""
