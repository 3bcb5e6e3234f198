"""The evaluator: a typed program generated from the kernel, and a walker that decides questions with it in three-valued
logic.

Platform wheels contain these modules compiled with mypyc; everywhere else the same source is interpreted.
"""

from __future__ import annotations

from importlib.util import find_spec


def is_compiled() -> bool:
    """Return whether this installation has the compiled evaluator."""
    spec = find_spec("policyengine.evaluator.nodes")
    return spec is not None and spec.origin is not None and not spec.origin.endswith(".py")
