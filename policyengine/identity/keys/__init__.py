"""Keys: of issuers and agents for verification, and this server's own for signing."""
