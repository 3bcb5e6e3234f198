"""Terminal output with tables and color, and SARIF."""
