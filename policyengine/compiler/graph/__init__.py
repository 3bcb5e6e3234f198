"""Drawings of the rules of a program: from tree and kernel to nested boxes, and to text, Mermaid, DOT, SVG or data."""
