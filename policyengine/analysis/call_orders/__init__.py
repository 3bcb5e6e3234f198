"""Suggests profiles with the order of calls that recorded runs follow, as a policy to review."""
