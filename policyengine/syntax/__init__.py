"""Text to AST: what was written, with every place remembered; the only importer of lark."""
