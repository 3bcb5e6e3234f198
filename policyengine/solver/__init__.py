"""Analysis of conditions: satisfiability and value partitions, for the checker, the linter, the diff and the tests."""
