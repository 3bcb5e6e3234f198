"""Syntax errors: find where the parser stopped, explain the probable mistake, and continue parsing."""
