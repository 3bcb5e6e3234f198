"""Texts of a path: the whole path, and its text captures."""

from __future__ import annotations

from policyengine import kernel as k
from policyengine.typesystem import Scalar

PATH = ("request", "path")


def is_path_text(expression: k.Expr) -> bool:
    match expression:
        case k.Fact(path, type_):
            return path == PATH or (path[0] == "params" and len(path) == 2 and type_ is Scalar.STRING)
        case k.Default(inner) | k.DefinitionRef(_, inner):
            return is_path_text(inner)
        case _:
            return False
