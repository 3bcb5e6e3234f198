"""The executable specification: kernel, request and snapshot to a decision and its effects."""
