"""`identity.toml`: parsed, checked, and turned into an authenticator."""
