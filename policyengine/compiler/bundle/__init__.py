"""A compiled policy as one signed file, and everything that is checked before one is loaded."""
