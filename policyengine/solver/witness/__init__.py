"""Witnesses: facts, entity rows and times that make conditions true or false as required.

`analysis/diff` and `testing/properties` use it. A witness is not guaranteed to fit, so the caller verifies it with an
engine.
"""
