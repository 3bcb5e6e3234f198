"""Syntax errors: finds where the parser stopped, explains the probable mistake, and continues parsing."""
