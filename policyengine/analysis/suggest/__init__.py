"""Grants that recorded traffic needs, as a policy to review."""
