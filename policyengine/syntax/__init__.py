"""Text to AST: what was written, with every place remembered; only `parse_table_generator.py` imports lark."""
