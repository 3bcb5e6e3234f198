"""Suggests grants for recorded traffic, as a policy to review."""
