"""Lowering of checked declarations to kernel rules: one module for each kind."""
