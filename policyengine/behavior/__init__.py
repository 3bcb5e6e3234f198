"""Learned behavior: what is known of each caller, and the facts `behavior.*` that follow from it."""
