"""Endpoint patterns: parsing, comparison, and the bindings of their captures."""
