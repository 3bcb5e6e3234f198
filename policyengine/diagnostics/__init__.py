"""Diagnostics: what is wrong with a policy, where, and what to do."""
