"""Names: the declared ones, and the resolution of names in expressions."""
