"""AST to kernel: what a policy means, and the executable specification of how it decides."""
