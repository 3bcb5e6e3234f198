"""Clients of the decision API: over HTTP, and over a Unix socket without any other module of this project."""
