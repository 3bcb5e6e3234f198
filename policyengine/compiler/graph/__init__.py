"""The decision tree drawn: tree and kernel → nested boxes → text, Mermaid, DOT, SVG or data."""
