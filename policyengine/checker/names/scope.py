"""What an expression may speak of where it stands: names, types, facts and variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policyengine.checker.names.symbols import Program, Reporter
from policyengine.checker.types.schema import FactsHere, Schema
from policyengine.typesystem import Type


@dataclass(frozen=True, slots=True)
class Context:
    """`past` is what existed at an earlier request, inside a history's `where`; `constant` is the inside of a `let`."""

    program: Program
    schema: Schema
    package: str
    here: FactsHere
    variables: Mapping[str, Type]
    report: Reporter
    past: FactsHere | None = None
    constant: bool = False
