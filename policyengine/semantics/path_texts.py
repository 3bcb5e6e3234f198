"""Texts of a path: the whole, and what is captured of it as a text; as keys of a count they have one spelling."""

from __future__ import annotations

from policyengine.kinds import Scalar
from policyengine.runtime.letter_case import fold
from policyengine.runtime.values import Value
from policyengine.semantics import kernel as k

PATH = ("request", "path")


def of_path(expression: k.Expr) -> bool:
    match expression:
        case k.Fact(path, type_):
            return path == PATH or (path[0] == "params" and len(path) == 2 and type_ is Scalar.STRING)
        case k.Default(inner) | k.Named(_, inner):
            return of_path(inner)
        case _:
            return False


def key_value(key: k.Expr, known: Value) -> Value:
    """What `per` names: a path in another case is no other one, or each would have a count of its own."""
    return fold(known) if isinstance(known, str) and of_path(key) else known
