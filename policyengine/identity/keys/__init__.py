"""Keys: those of issuers and agents for verification, and this server's own keys for signing."""
