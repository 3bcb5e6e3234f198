"""The context of an expression: which names, types, facts and variables it may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policyengine.checker.names.program import Program
from policyengine.checker.reporter import Reporter
from policyengine.checker.types.schema import AvailableFacts, Schema
from policyengine.typesystem import Type


@dataclass(frozen=True, slots=True)
class ExpressionContext:
    """The context of an expression. `past` holds the facts of an earlier request, inside the `where` of a history;
    `constant` is true in a `let`.
    """

    program: Program
    schema: Schema
    package: str
    here: AvailableFacts
    variables: Mapping[str, Type]
    report: Reporter
    past: AvailableFacts | None = None
    constant: bool = False
