"""`identity.toml`: read, checked, and turned into the parts of identity."""
