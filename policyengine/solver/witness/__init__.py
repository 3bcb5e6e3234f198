"""Witnesses: facts, entity rows and times that make conditions true or false as required.

`analysis/diff` and `testing/properties` use this package. A witness is not guaranteed to work, so the caller verifies
it with an engine.
"""
