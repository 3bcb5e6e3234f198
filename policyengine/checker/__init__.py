"""AST to kernel: resolve names, check types, compare patterns, and lower every rule."""
