"""Names: which are declared, and what each name in an expression refers to."""
