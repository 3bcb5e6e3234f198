"""Keys: of issuers and agents to verify by, and our own to sign with."""
