"""Compiled policies with one entity store: everything that a decision needs."""

from __future__ import annotations

from dataclasses import dataclass

from policyengine.compiler.evaluator import Evaluator
from policyengine.entities.store import EntityStore


@dataclass(frozen=True, slots=True)
class CompiledPolicies:
    """The compiled policies with the entity store that they read. A decision reads this object once, so that it sees a
    single entity store."""

    entities: EntityStore
    evaluator: Evaluator
    entities_mark: bytes  # the name of the entity store in the decision log
