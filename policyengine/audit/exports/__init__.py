"""Exports of the decision log in formats of other systems."""
