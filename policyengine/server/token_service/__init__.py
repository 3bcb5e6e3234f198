"""The token service: token endpoint, revocation and introspection over HTTP."""
