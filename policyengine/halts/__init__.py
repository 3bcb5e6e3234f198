"""Halts: orders of operators to deny requests, kept in the store and in a file, and followed by every process."""
