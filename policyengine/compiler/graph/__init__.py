"""Drawings of the decision tree: tree and kernel → nested boxes → text, Mermaid, DOT, SVG or data."""
