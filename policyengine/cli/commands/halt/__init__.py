"""The commands of `policyengine halt`, which halt requests, list halts and lift halts."""
