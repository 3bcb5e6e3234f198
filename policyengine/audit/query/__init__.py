"""Questions about decision logs: which records match, how many by field, and how large a number is. A streaming reader
answers questions in bounded memory; DuckDB answers them faster. Both read the same fields."""
