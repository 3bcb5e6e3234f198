"""The settings of `policyengine.toml` and of environment variables, which override it."""
