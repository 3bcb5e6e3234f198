"""Syntax errors: where the parser stopped, what was probably meant, and how to go on."""
