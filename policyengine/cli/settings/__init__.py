"""`policyengine.toml` and the environment variables that override it."""
