"""Connections and HTTP/1.1: how they are accepted, bounded, parsed and closed."""
