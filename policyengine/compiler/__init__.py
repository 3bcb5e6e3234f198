"""The compiler: from the kernel to the decision tree and the program that the evaluator runs, and to bundles."""
