"""Diagnostics: errors and warnings about a policy, with their place in the source and a hint."""
