"""Checked declarations to kernel rules, one module for each kind."""
