"""The facts to which an approval is bound: the facts that a rule reads, each with its raw form and its value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policyengine.runtime.values import ABSENT
from policyengine.spec.facts import ReadFact
from policyengine.typesystem import SetType, Type

if TYPE_CHECKING:
    from policyengine.evaluator.entity_nodes import EntityAttribute
    from policyengine.evaluator.nodes import FactNode
    from policyengine.evaluator.state import State
    from policyengine.typesystem import EntityRef


class ReadRecorder:
    """Records facts as they are read, in `seen`: by path, or by entity and attribute. A fact that was already read with
    the same type is not recorded again.
    """

    __slots__ = ("_types", "seen")

    def __init__(self) -> None:
        self.seen: dict[tuple[str, ...], ReadFact] = {}
        self._types: dict[tuple[object, ...], Type] = {}

    def fact(self, st: State, node: FactNode, value: Any) -> None:
        if self._is_new(node.path, node.type):
            raw = node.raw(st)
            self._record(node.path, ABSENT if raw is None and len(node.path) < 3 else raw, value, node.type)

    def attribute(self, st: State, node: EntityAttribute, entity: EntityRef, value: Any) -> None:
        if self._is_new((entity, node.name), node.type):
            self._record((str(entity), node.name), node.raw_of(st, entity), value, node.type)

    def row(self, entity: EntityRef, value: Any) -> None:
        self.seen[str(entity), "is", "known"] = ReadFact(ABSENT, value)

    def membership(self, item: EntityRef, ancestor: EntityRef, value: Any) -> None:
        self.seen[str(item), "in", str(ancestor)] = ReadFact(ABSENT, value)

    def _is_new(self, key: tuple[object, ...], type: Type) -> bool:
        before = self._types.get(key)
        if before is not None and (before is type or before == type):
            return False
        self._types[key] = type
        return True

    def _record(self, key: tuple[str, ...], raw: object, value: Any, type: Type) -> None:
        self.seen[key] = ReadFact(raw, value, isinstance(type, SetType))
