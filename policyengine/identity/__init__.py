"""Identity: from the raw credentials of a request to facts that were proved, or to a refusal with its own reason."""
