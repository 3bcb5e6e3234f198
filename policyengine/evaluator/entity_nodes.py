"""Nodes that query the entity store: attributes, rows and memberships."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from policyengine import kernel as k
from policyengine.evaluator.conditions import Condition
from policyengine.evaluator.nodes import FunctionValue, Node, merge
from policyengine.evaluator.state import MAYBE, NO, UNREAD, YES, State
from policyengine.runtime.fact_access import get_member
from policyengine.runtime.snapshot import NO_ROW, NOT_ANSWERED, PARTIAL_ROW, Membership
from policyengine.runtime.values import ABSENT, Unknown, coerce
from policyengine.spec.facts import ROW_NOT_KNOWN
from policyengine.spec.inherited_sets import InheritanceLevel, unite_levels
from policyengine.typesystem import EntityRef, Type

MAX_KEPT_ENTITIES = 65_536  # maximum entities in the cache of an attribute; a full cache is emptied


class EntityAttribute(Node):
    """An attribute of an entity, from the claims of the credential or else from the entity store. `index` is its slot,
    or -1 if the entity differs within a decision (the element of a quantifier). `place` is its index in the caches of
    entity attributes.
    """

    __slots__ = ("base", "fact", "index", "levels", "name", "place", "type")

    def __init__(
        self, index: int, place: int, base: Node, name: str, type: Type, levels: dict[str, bool], fact: str
    ) -> None:
        self.index = index
        self.place = place
        self.base = base
        self.name = name
        self.type = type
        self.levels = levels
        self.fact = fact

    def get(self, st: State) -> Any:
        index = self.index
        if index < 0 or st.recorder is not None:
            return self._read_and_record(st)
        try:
            value = st.values[index]
        except IndexError:
            value = st.grow(index)
        if value is UNREAD:
            entity = self.base.get(st)
            value = entity if type(entity) is Unknown else self.of(st, entity)
            st.values[index] = value
        return value

    def _read_and_record(self, st: State) -> Any:
        entity = self.base.get(st)
        if type(entity) is Unknown:
            return entity
        value = self.of(st, entity)
        if st.recorder is not None:
            st.recorder.attribute(st, self, entity, value)
        return value

    def of(self, st: State, entity: EntityRef) -> Any:
        """Return the attribute of this entity."""
        if st.kept is None or st.claims is not None:
            return self._inherited(st, entity)[1] if self.levels else self._own(st, entity)[1]
        kept = st.kept.get(self.place)
        if kept is None:
            kept = st.kept.setdefault(self.place, {})
        value = kept.get(entity, UNREAD)
        if value is UNREAD:
            value = self._inherited(st, entity)[1] if self.levels else self._own(st, entity)[1]
            if entity in st.entities:  # callers can send any other text
                if len(kept) >= MAX_KEPT_ENTITIES:
                    kept.clear()
                kept[entity] = value
        return value

    def raw_of(self, st: State, entity: EntityRef) -> object:
        return self._inherited(st, entity)[0] if self.levels else self._own(st, entity)[0]

    def _own(self, st: State, entity: EntityRef) -> tuple[object, Any]:
        """Return the attribute of this entity alone, as a raw value and as a typed value."""
        if self.name == "id":
            raw: object = entity.id
        else:
            raw = ABSENT if st.claims is None else st.claims.get((entity, self.name), ABSENT)
            if raw is ABSENT:
                raw = st.entities.attribute(entity, self.name)
        if raw is NO_ROW or raw is PARTIAL_ROW:
            return raw, Unknown.of(self.fact, raw.why, entity)
        return raw, coerce(raw, self.type, self.fact)

    def _inherited(self, st: State, entity: EntityRef) -> tuple[object, Any]:
        """Return the union of the set over the entity and its ancestors that declare it."""
        above, fact = st.entities.ancestors(entity), self.fact
        raws: list[object] = []
        levels: list[InheritanceLevel] = []
        for ref in (entity, *above.refs):
            if ref.type in self.levels:
                raw, held = self._own(st, ref)
                raws.append(raw)
                levels.append(InheritanceLevel(ref, () if raw is ABSENT and self.levels[ref.type] else held))
        why = "the entity store does not have all ancestors of the entity" if above.answered else NOT_ANSWERED
        gaps = [] if above.complete else [Unknown.of(fact, why)]
        return tuple(raws), unite_levels(levels, gaps, fact)


class HasRowTest(Condition):
    """`x is known`: whether the entity store has a row for the entity."""

    __slots__ = ("fact", "node")

    def __init__(self, node: Node, fact: str) -> None:
        self.node = node
        self.fact = fact

    def test(self, st: State) -> int:
        entity = self.node.get(st)
        if type(entity) is Unknown:
            st.doubts.append(entity)
            return MAYBE
        found = st.entities.has_row(entity)
        if st.recorder is not None:
            st.recorder.row(entity, Unknown.of(self.fact, ROW_NOT_KNOWN, entity) if found is None else found)
        if found is None:
            st.doubts.append(Unknown.of(self.fact, ROW_NOT_KNOWN, entity))
            return MAYBE
        return YES if found else NO


class MemberOfEntity(Condition):
    """Whether an entity is a member of another: `x in y`, `below` if strict, `child of` if direct."""

    __slots__ = ("ancestor", "direct", "fact", "item", "strict")

    def __init__(self, item: Node, ancestor: Node, fact: str, strict: bool, direct: bool) -> None:
        self.item = item
        self.ancestor = ancestor
        self.fact = fact
        self.strict = strict
        self.direct = direct

    def test(self, st: State) -> int:
        item, ancestor = self.item.get(st), self.ancestor.get(st)
        if type(item) is Unknown or type(ancestor) is Unknown:
            st.doubts.append(merge([item, ancestor]))
            return MAYBE
        if item == ancestor and not self.strict and not self.direct:
            return YES
        above = st.entities.parents(item) if self.direct else st.entities.ancestors(item)
        found = among_ancestors(st, ancestor, above.refs, above, item, self.fact)
        if type(found) is Unknown:
            st.doubts.append(found)
            return MAYBE
        return YES if found else NO


def among_ancestors(
    st: State, ancestor: EntityRef, refs: Collection[EntityRef], above: Membership, item: EntityRef, fact: str
) -> Any:
    """Return whether `refs`, the ancestors of an entity, include `ancestor`; unknown if the ancestors are
    incomplete.
    """
    inside = ancestor in refs
    found: Any = inside
    if not inside and not above.complete:
        why = "the entity store does not have all ancestors of the entity" if above.answered else NOT_ANSWERED
        found = Unknown.of(fact, why)
    if st.recorder is not None:
        st.recorder.membership(item, ancestor, found)
    return found


def in_any(st: State, collection: tuple[Any, ...], item: EntityRef, fact: str) -> Any:
    """Return whether an entity is one of the elements, or a member of one at any depth."""
    above = st.entities.ancestors(item)
    higher = frozenset(above.refs)
    unknown: list[Any] = []
    inside = False
    for element in collection:
        if type(element) is Unknown:
            unknown.append(element)
            continue
        found = item == element or among_ancestors(st, element, higher, above, item, fact)
        if found is True:
            inside = True
        elif found is not False:
            unknown.append(found)
    if inside:
        return True
    return merge(unknown) if unknown else False


def checked_reference(type_: Type, fact: str) -> Callable[[Any], Any]:
    """Return the function for `invoice(args.id)`, which converts an id to a reference."""
    return lambda known: coerce(known, type_, fact)


def member_value(node: k.Member, base: Node, fact: str) -> FunctionValue:
    """Return the node for a member of a record."""
    name, type_ = node.name, node.type
    return FunctionValue(lambda record: coerce(get_member(record, name), type_, fact), (base,))
