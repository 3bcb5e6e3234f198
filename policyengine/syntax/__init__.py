"""From text to AST: every node keeps its source span. Only `parse_table_generator.py` imports lark."""
