"""Witnesses: facts, entity rows and times for which conditions come out as wanted.

`analysis/diff` and `testing/properties` use it. A witness is only likely to fit: the caller asks an engine.
"""
