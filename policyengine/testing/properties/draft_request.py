"""A request under construction with its entities and time, as tests write them. Facts that the property sets never
change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeAlias

from policyengine import kernel as k
from policyengine.runtime.entities import EntityData
from policyengine.solver.witness.draft import read, write
from policyengine.solver.witness.values import typed_value
from policyengine.testcases.requests import with_chain, with_issuer
from policyengine.testcases.scenario import DEFAULT_TIME, GivenApproval, Scenario
from policyengine.testing.properties.endpoints import (
    ConcreteAction,
    ConcreteEndpoint,
    ConcreteHttp,
    ConcreteTool,
    EndpointContext,
    with_capture,
)
from policyengine.typesystem import EntityRef, RefType, Type
from policyengine.vocabulary import (
    BUILT_IN_FACTS,
    LEARNED_FACTS,
    LEARNED_ROOTS,
    NEUTRAL_VALUES,
    BuiltInFact,
    FactOrigin,
    is_learned_value,
)

FactPath: TypeAlias = tuple[str, ...]
FactTree: TypeAlias = dict[str, Any]

ROOTS = ("user", "agent", "tool")


@dataclass(slots=True)
class DraftRow:
    attributes: dict[str, object]
    parents: list[EntityRef]


@dataclass(slots=True)
class DraftRequest:
    """A request under construction. `facts` are in wire format, without the facts of the endpoint. `variables` are the
    variables of enclosing quantifiers.
    """

    world: Scenario
    site: EndpointContext
    spot: ConcreteEndpoint
    facts: FactTree
    rows: dict[EntityRef, DraftRow]
    attributes: dict[tuple[str, str], object]
    approvals: list[GivenApproval]
    now: datetime
    variables: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, world: Scenario, site: EndpointContext) -> DraftRequest:
        rows = {ref: DraftRow(dict(row.attributes), list(row.parents)) for ref, row in world.rows.items()}
        attributes, approvals = dict(world.attributes), list(world.approvals)
        sketch = cls(world, site, site.spot, copy_tree(world.facts), rows, attributes, approvals, world.now)
        sketch.vouch()
        return sketch

    def vouch(self) -> None:
        """Add the facts that an attestation's attester vouches for, which tests may omit."""
        given = self.facts.get("attestation")
        attester = self.kernel.attesters.get(str(given.get("by"))) if isinstance(given, Mapping) else None
        if attester is None:
            return
        model, digest = attester.models[0] if attester.models else (None, None)
        environment = attester.environments[0] if attester.environments else None
        for name, value in (("model", model), ("model_hash", digest), ("environment", environment)):
            self.facts["attestation"].setdefault(name, value)

    @property
    def kernel(self) -> k.Kernel:
        return self.site.kernel

    # ── What is given ─────────────────────────────────────────────────────────────────────────

    def is_given(self, path: FactPath) -> bool:
        """Return whether the property sets the fact, or sets it as absent."""
        inside: object = self.world.facts
        for name in path:
            if not isinstance(inside, Mapping):
                return True
            if name not in inside:
                return False
            inside = inside[name]
        return not isinstance(inside, Mapping)

    def has_time(self) -> bool:
        return self.world.now != DEFAULT_TIME

    def is_given_row(self, ref: EntityRef, name: str) -> bool:
        held = any(self.holder(root) == ref for root, given in self.world.attributes if given == name)
        return ref in self.world.rows or held

    # ── Reading ───────────────────────────────────────────────────────────────────────────────

    def raw(self, path: FactPath) -> object:
        found: object = self.facts
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def holder(self, root: str) -> EntityRef | None:
        """Return the entity of `user`, `resource` and other entity facts in this request; None if it is unknown."""
        if root == "resource":
            found = self.resource()
        else:
            id_ = self.raw((root, "id"))
            found = EntityRef(root, id_) if isinstance(id_, str) and id_ else None
        return found

    def resource(self) -> EntityRef | None:
        if isinstance(self.spot, ConcreteAction):
            return EntityRef(self.spot.type, self.spot.id)
        for binder in self.site.binders:
            if binder.resource is not None:
                text = self.capture(binder.resource[1])
                return None if text is None else EntityRef(binder.resource[0], text)
            bound = dict(binder.facts).get(("resource",))
            known = None if bound is None else self.known(bound)
            if isinstance(known, EntityRef):
                return known
        return None

    def capture(self, name: str) -> str | None:
        if not isinstance(self.spot, ConcreteHttp):
            return None
        for binder in self.site.binders:
            segments = binder.pattern.segments if isinstance(binder.pattern, k.HttpPattern) else ()
            for segment, text in zip(segments, self.spot.segments, strict=False):
                if segment.capture == name:
                    return text.removeprefix(segment.prefix).removesuffix(segment.suffix)
        return None

    def bound(self, path: FactPath) -> k.Expr | None:
        return next((node for binder in self.site.binders for known, node in binder.facts if known == path), None)

    def known(self, node: k.Expr) -> object:
        """Return the value of an operand; None if it has no value or is too complex to compute."""
        return read(self, node)

    def read_fact(self, path: FactPath, type_: Type) -> object:
        match path:
            case ("time",):
                return self.now
            case ("user",) | ("agent",) | ("resource",):
                return self.holder(path[0])
            case ("params", name):
                text = self.capture(name)
                return typed_value(text, type_) if isinstance(type_, RefType) else text
            case _ if (node := self.bound(path)) is not None:
                return self.known(node)
            case _ if path in LEARNED_FACTS and self.raw(path) is None:
                return NEUTRAL_VALUES.get(path)
            case _:
                return typed_value(self.raw(path), type_)

    def read_attribute(self, holder: EntityRef, name: str, type_: Type) -> object:
        for root, given in self.attributes:
            if given == name and self.holder(root) == holder:
                return typed_value(self.attributes[root, given], type_)
        row = self.rows.get(holder)
        return None if row is None else typed_value(row.attributes.get(name), type_)

    def has_row(self, ref: EntityRef) -> bool:
        return ref in self.rows or any(self.holder(root) == ref for root, _ in self.attributes)

    # ── Changing ──────────────────────────────────────────────────────────────────────────────

    def put(self, path: FactPath, value: object) -> bool:
        """Set a fact; return False if the property sets it, or if its parent is not a record."""
        if self.is_given(path):
            return False
        tree: FactTree = self.facts
        for name in path[:-1]:
            inner = tree.setdefault(name, {})
            if not isinstance(inner, dict):
                return False
            tree = inner
        tree[path[-1]] = value
        if path == ("attestation", "by"):
            self.vouch()
        return True

    def remove(self, path: FactPath) -> bool:
        if self.is_given(path) or self.raw(path) is None:
            return False
        tree: FactTree = self.facts
        for name in path[:-1]:
            tree = tree[name]
        if path[0] == "attestation" and len(path) == 2:
            tree[path[1]] = None  # set to None, because otherwise the attester fills in the fact
        else:
            del tree[path[-1]]
        if not tree and len(path) == 2:
            del self.facts[path[0]]
        return True

    def remove_fact(self, path: FactPath) -> bool:
        """Remove the fact of a path; return False if the property sets it, or if there is nothing to remove."""
        bound = self.bound(path)
        if bound is not None:
            return isinstance(bound, k.Fact) and self.remove(bound.path)
        return self.remove((*path, "id") if path in (("user",), ("agent",)) else path)

    def assign(self, node: k.Expr, value: object) -> bool:
        """Give an operand a value, wherever it comes from; return False if this is impossible."""
        return write(self, node, value)

    def write_fact(self, path: FactPath, value: object) -> bool:
        match path:
            case ("time",):
                if isinstance(value, datetime) and not self.has_time():
                    self.now = value.replace(microsecond=0)
                    return True
                return False
            case ("user",) | ("agent",):
                return isinstance(value, EntityRef) and self.put((path[0], "id"), value.id)
            case ("resource",):
                return isinstance(value, EntityRef) and self.be_about(value)
            case ("params", name):
                text = value.id if isinstance(value, EntityRef) else value
                return isinstance(text, str) and self._fill(name, text)
            case ("tool",) | ("chain", *_):
                return False
            case ("tool", _) if not isinstance(self.spot, ConcreteTool):
                return False
            case _ if path in LEARNED_FACTS:
                return is_learned_value(path, value) and self.put(path, value)
            case _ if (fact := BUILT_IN_FACTS.get(path)) is not None and not is_free(fact):
                return False
            case _ if (node := self.bound(path)) is not None:
                return self.assign(node, value)
            case _:
                return self.put(path, value)

    def be_about(self, ref: EntityRef) -> bool:
        """Make the entity the resource of the request; return False if the endpoint cannot name it."""
        if isinstance(self.spot, ConcreteAction):
            self.spot = replace(self.spot, id=ref.id)
            return ref.type == self.spot.type
        for binder in self.site.binders:
            if binder.resource is not None:
                return binder.resource[0] == ref.type and self._fill(binder.resource[1], ref.id)
        node = self.bound(("resource",))
        return node is not None and self.assign(node, ref)

    def _fill(self, name: str, text: str) -> bool:
        filled = with_capture(self.spot, self.site.binders, name, text) if isinstance(self.spot, ConcreteHttp) else None
        self.spot = filled or self.spot
        return filled is not None

    def write_attribute(self, holder: EntityRef, name: str, value: object) -> bool:
        declared = self.kernel.entities.get(holder.type)
        if self.is_given_row(holder, name) or declared is None or declared.field(name) is None:
            return False
        self.row(holder).attributes[name] = value
        return True

    def remove_attribute(self, holder: EntityRef, name: str) -> bool:
        row = self.rows.get(holder)
        if row is None or self.is_given_row(holder, name):
            return False
        return row.attributes.pop(name, None) is not None

    def row(self, ref: EntityRef) -> DraftRow:
        return self.rows.setdefault(ref, DraftRow({}, []))

    def add_row(self, ref: EntityRef) -> None:
        if ref.type in self.kernel.entities:
            self.row(ref)

    def remove_row(self, ref: EntityRef) -> None:
        """Remove the row of an entity, unless the property sets it."""
        if ref not in self.world.rows:
            self.rows.pop(ref, None)

    def add_parent(self, child: EntityRef, parent: EntityRef) -> None:
        declared = self.kernel.entities.get(child.type)
        if child in self.world.rows or declared is None or parent.type not in declared.parents:
            return
        parents = self.row(child).parents
        if parent not in parents:
            parents.append(parent)

    def remove_parent(self, child: EntityRef, parent: EntityRef) -> None:
        if child in self.rows and child not in self.world.rows and parent in self.rows[child].parents:
            self.rows[child].parents.remove(parent)

    # ── The question ──────────────────────────────────────────────────────────────────────────

    def question(self) -> dict[str, object]:
        """Return the request in wire format."""
        facts = with_chain(with_issuer(copy_tree(self.facts)), self.now)
        for root in LEARNED_ROOTS:
            facts.pop(root, None)
        for root, members in self.spot.members.items():
            given = facts.get(root)
            facts[root] = {**(given if isinstance(given, Mapping) and root in ("request", "tool") else {}), **members}
        return facts

    def data(self) -> dict[EntityRef, EntityData]:
        return {ref: EntityData(ref, dict(row.attributes), tuple(row.parents)) for ref, row in self.rows.items()}

    def copy(self) -> DraftRequest:
        rows = {ref: DraftRow(dict(row.attributes), list(row.parents)) for ref, row in self.rows.items()}
        return replace(
            self,
            facts=copy_tree(self.facts),
            rows=rows,
            attributes=dict(self.attributes),
            approvals=list(self.approvals),
        )

    def leaves(self) -> Iterator[FactPath]:
        """Yield every fact that the property does not set."""
        yield from (path for path in leaf_paths(self.facts) if not self.is_given(path))


def leaf_paths(tree: Mapping[str, object], above: FactPath = ()) -> Iterator[FactPath]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaf_paths(value, (*above, name))
        else:
            yield (*above, name)


def copy_tree(tree: Mapping[str, object]) -> FactTree:
    return {name: copy_tree(value) if isinstance(value, Mapping) else value for name, value in tree.items()}


def is_free(fact: BuiltInFact) -> bool:
    """Return whether a request may set the fact freely: it is neither part of the endpoint nor derived from others."""
    return fact.origin is not FactOrigin.ENDPOINT and not fact.origin.is_derived
