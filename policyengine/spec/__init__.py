"""The executable specification: from kernel, request and snapshot to a decision and its effects."""
