"""HTTP bodies, header vocabularies and host checks, shared by server, integrations and identity."""
