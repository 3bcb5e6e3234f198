"""The evaluator: a typed program made from the kernel, and a walker that decides questions by it in three values."""
