"""Clients of the decision API: over HTTP, and over a Unix socket without other modules of this project."""
