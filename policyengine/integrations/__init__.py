"""Enforcement points for other frameworks: thin layers that decide before the framework acts, and deny when
in doubt.
"""
