"""Drawings of the rules of a program: nested boxes made from the tree and the kernel, rendered as text, Mermaid, DOT,
SVG or data.
"""
