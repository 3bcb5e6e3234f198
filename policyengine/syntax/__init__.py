"""Text to AST: what was written, with every place remembered; only `generate.py` imports lark."""
