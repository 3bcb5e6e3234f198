"""Declared names, and the resolution of names in expressions."""
