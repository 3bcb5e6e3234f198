"""Connections and HTTP/1.1: accepted, bounded, parsed and closed."""
