"""Learned behavior: what is known about each caller, and the facts `behavior.*` that are computed from it."""
