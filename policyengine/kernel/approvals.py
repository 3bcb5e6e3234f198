"""What approvals are bound to, as the kernel has it; the package has it once more."""

from __future__ import annotations

from dataclasses import dataclass

from policyengine.kernel.expressions import Expr


@dataclass(frozen=True, slots=True)
class BoundObject:
    """All of an object of the request, undeclared members too, but for what is below `excepts`: paths as facts have
    them, `("body", "request_id")`."""

    path: tuple[str, ...]
    excepts: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class BoundTo:
    """`bound to (…)`: what an approval is bound to in place of what it is bound to otherwise. The resource, and what
    the rule and its message read, is always part of it."""

    objects: tuple[BoundObject, ...]
    facts: tuple[Expr, ...]
