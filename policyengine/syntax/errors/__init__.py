"""Syntax errors: where the parser stopped, the probable mistake, and how parsing continues."""
