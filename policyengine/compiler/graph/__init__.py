"""Drawings of the decision tree: from tree and kernel to nested boxes, and to text, Mermaid, DOT, SVG or data."""
