"""What an expression may speak of where it stands: names, types, facts and variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal as Word
from typing import TypeAlias

from policyengine.kinds import Type
from policyengine.semantics.schema import FactsHere, Schema
from policyengine.semantics.symbols import Program, Reporter

Purpose: TypeAlias = Word["condition", "binding", "value"]


@dataclass(frozen=True, slots=True)
class Context:
    """`past` is what existed at an earlier request, inside a history's `where`; `constant` is the inside of a `let`."""

    program: Program
    schema: Schema
    package: str
    here: FactsHere
    variables: Mapping[str, Type]
    report: Reporter
    purpose: Purpose = "condition"
    past: FactsHere | None = None
    constant: bool = False
