"""Compiled policies with one entity store: everything that a decision needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.compiler.evaluator import Evaluator
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision

# Returns the decision of a question, or None if the slow path must decide it.
FastPath: TypeAlias = Callable[[dict[str, object]], Decision | None]


@dataclass(frozen=True, slots=True)
class CompiledPolicies:
    """The compiled policies with the entity store that they read. A decision reads this object once, so that it sees a
    single entity store."""

    entities: EntityStore
    evaluator: Evaluator
    decide: FastPath  # spends
    evaluate: FastPath
    decide_without_waiting: FastPath  # spends; also returns None if the decision may take long
    entities_mark: bytes  # the name of the entity store in the decision log
