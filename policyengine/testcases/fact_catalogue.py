"""The facts, attributes, rules and enum values that a test may name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal as Word
from typing import TypeAlias

from policyengine.checker.names.program import Program
from policyengine.checker.type_names import join_words
from policyengine.checker.types.schema import FACT_ROOTS, RESERVED_ATTRIBUTES, Schema
from policyengine.diagnostics.suggest import suggest
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testcases.detail_text import obligation_source_text
from policyengine.typesystem import EnumType, RecordType, Type
from policyengine.vocabulary import (
    ENTITY_ROOTS,
    FACT_ROOT_NAMES,
    FACTS,
    LEARNED_FACTS,
    REQUEST_MEMBERS,
    FactOrigin,
)

FactPath: TypeAlias = tuple[str, ...]
NameKind: TypeAlias = Word["issuer", "attester"]

# Request members that policies see in another form, or that no rule sees.
GIVEN_ONLY_FACTS = {
    member.path: member.type for member in REQUEST_MEMBERS if member.in_tests and member.type is not None
}
# Objects whose members may have any name.
MAP_FACTS = frozenset(member.path for member in REQUEST_MEMBERS if member.type is None)
REQUEST_HINT = "the request line sets it: `GET /path`, `TOOL server/name`"
HOPS_HINT = 'give the delegating agents: `given chain [agent "planner"]`'
APPROVAL_HINT = 'give the approval itself: `given approval { rule: "…", by: "…" }`'
ORIGIN_HINTS = {
    FactOrigin.ENDPOINT: REQUEST_HINT, FactOrigin.CHAIN: HOPS_HINT, FactOrigin.ENGINE: APPROVAL_HINT,
}  # fmt: skip
# Facts that are derived from others, each with a hint.
DERIVED_FACT_HINTS: Mapping[FactPath, str] = {
    ("params",): "write it in the path of the request",
    ("tool",): REQUEST_HINT,
    **{
        fact.path: ORIGIN_HINTS[fact.origin]
        for fact in FACTS
        if fact.origin in ORIGIN_HINTS and fact.path != ("time",)
        if fact.path not in LEARNED_FACTS
    },
}


@dataclass(frozen=True, slots=True)
class CatalogueFact:
    """A fact of the request. If `type` is None, any type is allowed; `names` is the kind of declaration that a bare
    word names.
    """

    type: Type | None = None
    names: NameKind | None = None


@dataclass(frozen=True, slots=True)
class CatalogueAttribute:
    type: Type | None


@dataclass(frozen=True, slots=True)
class FactGroup:
    """Facts under a common name. A `free` group may have members of any name."""

    free: bool = False


CatalogueEntry: TypeAlias = CatalogueFact | CatalogueAttribute | FactGroup


@dataclass(frozen=True, slots=True)
class FactCatalogue:
    """Everything that tests may name, computed once for all tests."""

    program: Program
    schema: Schema
    leaves: Mapping[FactPath, CatalogueFact]
    groups: frozenset[FactPath]
    rules: frozenset[str]
    confirming: frozenset[str]
    obligations: frozenset[str]
    limits: frozenset[str]
    attesters: Mapping[str, ast.AttesterDecl]
    words: dict[str, Mapping[str, EnumType]] = field(default_factory=dict)
    found: dict[FactPath, CatalogueEntry] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, schema: Schema) -> FactCatalogue:
        leaves = dict(_readable_facts(schema))
        prefixes = {path[:length] for path in leaves for length in range(1, len(path))}
        every = [item for _, item in program.declarations()]
        guards = [item for item in every if isinstance(item, ast.GuardDecl)]
        confirming = {g.name.value for g in guards if any(isinstance(item, ast.Confirm) for item in g.items)}
        limits = {item.name.value for item in every if isinstance(item, ast.RateDecl | ast.BudgetDecl)}
        rules = limits.union(item.name.value for item in guards)
        groups = frozenset(prefixes | {(root,) for root in FACT_ROOT_NAMES - {"time"}})
        attesters = {item.name.text: item for item in every if isinstance(item, ast.AttesterDecl)}
        duties = {
            obligation_source_text(i) for guard in guards for i in guard.items if isinstance(i, ast.ObligationEffect)
        }
        named = frozenset(rules), frozenset(confirming), frozenset(duties), frozenset(limits)
        return cls(program, schema, leaves, groups, *named, attesters)

    def find(self, path: FactPath, span: Span) -> CatalogueEntry | None:
        """Return the entry for a path; None if a test cannot set it, which is reported."""
        if path in self.found:
            return self.found[path]
        if path in DERIVED_FACT_HINTS and self._attribute(path) is None:
            self._refuse(path, span, DERIVED_FACT_HINTS[path])
            return None
        if path[:1] in DERIVED_FACT_HINTS and len(path) > 1 and path[0] == "params":
            self._refuse(path, span, DERIVED_FACT_HINTS[path[:1]])
            return None
        known = self._attribute(path) or self._fact(path)
        if known is not None:
            self.found[path] = known
        else:
            self._unknown(path, span)
        return known

    def words_in(self, package: str) -> Mapping[str, EnumType]:
        """Return each enum value with one enum that has it."""
        if package not in self.words:
            enums = self.schema.enums_in(self.program, package)
            self.words[package] = {word: enum for enum in enums for word in enum.values}
        return self.words[package]

    def attested(self, given: Mapping[str, object]) -> dict[str, object]:
        """Return the given attestation, with defaults from the declaration of its attester."""
        attester = self.attesters.get(str(given.get("by")))
        items = attester.items if attester else ()
        models = [item for item in items if isinstance(item, ast.AttestedModel)]
        model = next((one for one in models if given.get("model", one.name.value) == one.name.value), None)
        places = [one.value for item in items if isinstance(item, ast.AttestedEnvironment)
                  for one in item.values.items if isinstance(one, ast.Text)]  # fmt: skip
        found: dict[str, object] = {"environment": places[0]} if places else {}
        found |= {"model": model.name.value} if model else {}
        found |= {"model_hash": model.hash.text} if model and model.hash else {}
        return {**found, **given}

    # ── Facts ─────────────────────────────────────────────────────────────────────────────────

    def _attribute(self, path: FactPath) -> CatalogueAttribute | None:
        if len(path) != 2 or path[0] not in ENTITY_ROOTS or path[1] in RESERVED_ATTRIBUTES.get(path[0], ("id",)):
            return None
        entities = self.schema.entities
        owners = entities.values() if path[0] == "resource" else [entities[path[0]]] if path[0] in entities else []
        types = {declared.type for owner in owners if (declared := owner.field(path[1]))}
        return CatalogueAttribute(types.pop() if len(types) == 1 else None) if types else None

    def _fact(self, path: FactPath) -> CatalogueEntry | None:
        if path[:2] in MAP_FACTS:
            return (
                FactGroup(free=True)
                if len(path) == 2
                else CatalogueFact()
                if len(path) == 3 or path[0] == "credential"
                else None
            )
        if path in self.leaves:
            return self.leaves[path]
        if path in self.groups:
            return FactGroup()
        if path[0] in FACT_ROOTS and any(not name.isidentifier() for name in path):
            return CatalogueFact()
        for length in range(len(path) - 1, 1, -1):
            if path[:length] in self.leaves:
                return self._member(self.leaves[path[:length]].type, path[length:])
        return None

    @staticmethod
    def _member(type_: Type | None, names: FactPath) -> CatalogueFact | None:
        for name in names:
            declared = type_.field(name) if isinstance(type_, RecordType) else None
            if declared is None:
                return None
            type_ = declared.type
        return CatalogueFact(type_)

    # ── Facts that a test cannot set ──────────────────────────────────────────────────────────────────

    def _refuse(self, path: FactPath, span: Span, hint: str) -> None:
        self.program.report("E604", f"`{'.'.join(path)}` is derived from other facts: do not set it", span, hint)

    def _unknown(self, path: FactPath, span: Span) -> None:
        name = ".".join(path)
        known = {".".join(leaf) for leaf in self.leaves} | set(self._attributes())
        under = sorted(one.partition(".")[2] for one in known if one.startswith(f"{path[0]}."))
        meant = suggest(".".join(path[1:]), under) if len(path) > 1 else None
        near = f"{path[0]}.{meant}" if meant else None if under else suggest(name, known)
        every = join_words([f"{path[0]}.{one}" for one in under[:6]] or sorted(FACT_ROOT_NAMES))
        hint = f"did you mean `{near}`?" if near else declaration_hint(path) or f"the known members are {every}"
        self.program.report("E602", f"unknown fact `{name}`", span, hint)

    def _attributes(self) -> Iterator[str]:
        for root in ENTITY_ROOTS:
            for entity in self.schema.entities.values():
                if root in ("resource", entity.name):
                    yield from (f"{root}.{declared.name}" for declared in entity.fields)


def declaration_hint(path: FactPath) -> str | None:
    """Return a hint that shows how to declare the fact; None for other roots."""
    match path:
        case ("body" | "args" | "context", _, *_):
            return f"declare it: `facts on … {{ {'.'.join(path)}: string }}`"
        case ("user" | "agent" | "tool", name):
            return f"declare it: `entity {path[0]} {{ {name}: string }}`"
        case ("resource", name):
            return f"declare it: `entity invoice {{ {name}: string }}`"
        case ("user" | "agent" | "tool" | "resource", _, _, *_):
            return "give the row of the other entity: `given entities { … }`"
        case _:
            return None


def _readable_facts(schema: Schema) -> Iterator[tuple[FactPath, CatalogueFact]]:
    for fact in FACTS:
        if fact.path not in DERIVED_FACT_HINTS and fact.path != ("time",):
            yield fact.path, CatalogueFact(fact.type, _name_kind(fact.path))
    yield from ((path, CatalogueFact(type_)) for path, type_ in GIVEN_ONLY_FACTS.items())
    for path, declared in schema.by_path.items():
        types = {fact.type for fact in declared.facts}
        yield path, CatalogueFact(types.pop() if len(types) == 1 else None)


def _name_kind(path: FactPath) -> NameKind | None:
    if path == ("attestation", "by"):
        return "attester"
    return "issuer" if path[-1] == "issuer" else None
