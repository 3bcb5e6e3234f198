"""Identity: verifies the raw credentials of a request and returns proved facts, or a refusal with a code."""
