"""From AST to kernel: resolves names, checks types, compares patterns, and lowers every rule."""
