"""The pytest plugin: `.policy` files as test items, and the `policy` fixture."""
