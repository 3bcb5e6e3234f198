"""Bundles: a compiled policy as one signed file, and all checks before a bundle is loaded."""
