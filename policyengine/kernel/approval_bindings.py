"""The kernel's bindings of approvals: the parts of a request for which an approval is valid."""

from __future__ import annotations

from dataclasses import dataclass

from policyengine.kernel.expressions import Expr


@dataclass(frozen=True, slots=True)
class BoundObject:
    """A whole object of the request, including undeclared members but without `excepts`. Paths are paths of facts:
    `("body", "request_id")`.
    """

    path: tuple[str, ...]
    excepts: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class BoundTo:
    """`bound to (…)`, which replaces the default binding of an approval. The resource and the facts that the rule and
    its message read are always bound."""

    objects: tuple[BoundObject, ...]
    facts: tuple[Expr, ...]
