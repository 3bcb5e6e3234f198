"""Settings files in TOML, read within bounds and checked by pydantic models; shared by `policyengine.toml` and
`identity.toml`."""
