"""The evaluator: a typed program made from the kernel, and a walker that decides questions by it in three values.

Wheels for a platform have these modules compiled by mypyc; everywhere else the same source runs interpreted.
"""

from __future__ import annotations

from importlib.util import find_spec


def is_compiled() -> bool:
    """Return whether this installation has the compiled evaluator."""
    spec = find_spec("policyengine.evaluator.nodes")
    return spec is not None and spec.origin is not None and not spec.origin.endswith(".py")
