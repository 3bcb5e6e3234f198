"""From the kernel to decisions: the tree, the evaluator generated from it, and bundles."""
