"""Questions about decision logs: which records match, how many by field, and how large a number is. A streaming reader
answers them in bounded memory, and DuckDB faster; both read the same fields."""
