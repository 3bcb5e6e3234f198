"""What an expression may speak of where it stands: names, types, facts and variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policyengine.checker.names.program import Program
from policyengine.checker.reporter import Reporter
from policyengine.checker.types.schema import AvailableFacts, Schema
from policyengine.typesystem import Type


@dataclass(frozen=True, slots=True)
class ExpressionContext:
    """`past` is what existed at an earlier request, inside a history's `where`; `constant` is the inside of a `let`."""

    program: Program
    schema: Schema
    package: str
    here: AvailableFacts
    variables: Mapping[str, Type]
    report: Reporter
    past: AvailableFacts | None = None
    constant: bool = False
