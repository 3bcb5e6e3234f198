"""Terminal output with tables and colour, and SARIF."""
