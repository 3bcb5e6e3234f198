"""Token endpoint, revocation and introspection over HTTP."""
