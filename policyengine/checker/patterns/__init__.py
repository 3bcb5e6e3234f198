"""Endpoint patterns: read, compared with each other, and what their captures bind."""
