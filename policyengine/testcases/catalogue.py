"""What a test may give and name: every fact a request can hold, attributes of entities, rules, words of enums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal as Word
from typing import TypeAlias

from policyengine.checker.names.symbols import Program
from policyengine.checker.type_names import listed
from policyengine.checker.types.schema import FACT_ROOTS, RESERVED, Schema
from policyengine.diagnostics.model import suggest
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testcases.detail_text import obligation_written
from policyengine.typesystem import Enum, Record, Scalar, Type
from policyengine.vocabulary import ENTITY_ROOTS, FACTS, ROOTS

Path: TypeAlias = tuple[str, ...]
NameKind: TypeAlias = Word["issuer", "attester"]

# Times on the wire that policies see as ages, and how a credential was refused, which no rule sees.
UNSEEN = {(root, "issued_at"): Scalar.TIME for root in ("credential", "attestation", "task")}
UNSEEN |= {("credential", "expires_at"): Scalar.TIME, ("credential", "refused"): Scalar.STRING}
# Objects with names of any kind.
MAPS = frozenset({("request", "headers"), ("request", "query"), ("credential", "claims")})
THE_REQUEST = "the request itself says it: `GET /path`, `TOOL server/name`"
HOPS = 'give who handed the work on: `given chain [agent "planner"]`'
APPROVAL = 'give the approval itself: `given approval { rule: "…", by: "…" }`'
NOT_YET = frozenset({fact.path[0] for fact in FACTS if fact.later}) - {fact.path[0] for fact in FACTS if not fact.later}
# Facts that follow from others.
DERIVED: Mapping[Path, str] = {
    ("params",): "write it in the path of the request",
    ("request", "method"): THE_REQUEST,
    ("request", "path"): THE_REQUEST,
    ("tool",): THE_REQUEST,
    ("tool", "name"): THE_REQUEST,
    ("tool", "server"): THE_REQUEST,
    ("chain", "depth"): HOPS,
    ("chain", "root"): HOPS,
    ("chain", "agents"): HOPS,
    ("approval", "granted"): APPROVAL,
    ("approval", "by"): APPROVAL,
    ("approval", "age"): APPROVAL,
}


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact of the request. `type` None is any; `names` says what a bare word names there."""

    type: Type | None = None
    names: NameKind | None = None


@dataclass(frozen=True, slots=True)
class Attribute:
    type: Type | None


@dataclass(frozen=True, slots=True)
class Group:
    """Facts under a common name; `free` may have members of any name."""

    free: bool = False


Known: TypeAlias = Fact | Attribute | Group


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Built once for all tests."""

    program: Program
    schema: Schema
    leaves: Mapping[Path, Fact]
    groups: frozenset[Path]
    rules: frozenset[str]
    confirming: frozenset[str]
    obligations: frozenset[str]
    limits: frozenset[str]
    attesters: Mapping[str, ast.AttesterDecl]
    words: dict[str, Mapping[str, Enum]] = field(default_factory=dict)
    found: dict[Path, Known] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, schema: Schema) -> Catalogue:
        leaves = dict(_leaves(schema))
        prefixes = {path[:length] for path in leaves for length in range(1, len(path))}
        every = [item for _, item in program.declarations()]
        guards = [item for item in every if isinstance(item, ast.GuardDecl)]
        confirming = {g.name.value for g in guards if any(isinstance(item, ast.Confirm) for item in g.items)}
        limits = {item.name.value for item in every if isinstance(item, ast.RateDecl | ast.BudgetDecl)}
        rules = limits.union(item.name.value for item in guards)
        groups = frozenset(prefixes | {(root,) for root in ROOTS - NOT_YET - {"time"}})
        attesters = {item.name.text: item for item in every if isinstance(item, ast.AttesterDecl)}
        duties = {obligation_written(i) for guard in guards for i in guard.items if isinstance(i, ast.Obligation)}
        named = frozenset(rules), frozenset(confirming), frozenset(duties), frozenset(limits)
        return cls(program, schema, leaves, groups, *named, attesters)

    def find(self, path: Path, span: Span) -> Known | None:
        """What the path names; None when it names nothing that can be given, which is reported."""
        if path in self.found:
            return self.found[path]
        if path in DERIVED and self._attribute(path) is None:
            self._refuse(path, span, DERIVED[path])
            return None
        if path[:1] in DERIVED and len(path) > 1 and path[0] == "params":
            self._refuse(path, span, DERIVED[path[:1]])
            return None
        known = self._attribute(path) or self._fact(path)
        if known is not None:
            self.found[path] = known
        elif not self._is_later(path, span):
            self._unknown(path, span)
        return known

    def words_in(self, package: str) -> Mapping[str, Enum]:
        """Each word that is a value of an enum, with one such enum."""
        if package not in self.words:
            enums = self.schema.enums_in(self.program, package)
            self.words[package] = {word: enum for enum in enums for word in enum.values}
        return self.words[package]

    def attested(self, given: Mapping[str, object]) -> dict[str, object]:
        """An attestation is of what its attester vouches for, as far as it does not say something else."""
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

    def _attribute(self, path: Path) -> Attribute | None:
        if len(path) != 2 or path[0] not in ENTITY_ROOTS or path[1] in RESERVED.get(path[0], ("id",)):
            return None
        entities = self.schema.entities
        owners = entities.values() if path[0] == "resource" else [entities[path[0]]] if path[0] in entities else []
        types = {declared.type for owner in owners if (declared := owner.field(path[1]))}
        return Attribute(types.pop() if len(types) == 1 else None) if types else None

    def _fact(self, path: Path) -> Known | None:
        if path[:2] in MAPS:
            return Group(free=True) if len(path) == 2 else Fact() if len(path) == 3 or path[0] == "credential" else None
        if path in self.leaves:
            return self.leaves[path]
        if path in self.groups:
            return Group()
        if path[0] in FACT_ROOTS and any(not name.isidentifier() for name in path):
            return Fact()
        for length in range(len(path) - 1, 1, -1):
            if path[:length] in self.leaves:
                return self._member(self.leaves[path[:length]].type, path[length:])
        return None

    @staticmethod
    def _member(type_: Type | None, names: Path) -> Fact | None:
        for name in names:
            declared = type_.field(name) if isinstance(type_, Record) else None
            if declared is None:
                return None
            type_ = declared.type
        return Fact(type_)

    # ── What cannot be given ──────────────────────────────────────────────────────────────────

    def _refuse(self, path: Path, span: Span, hint: str) -> None:
        self.program.report("E604", f"`{'.'.join(path)}` follows from other facts and is not given", span, hint)

    def _is_later(self, path: Path, span: Span) -> bool:
        later = next((fact for fact in FACTS if fact.path[: len(path)] == path and fact.later), None)
        if later is not None:
            message = f"`{'.'.join(path)}` is not known yet: it waits for {later.later}"
            self.program.report("E902", message, span, "remove it until then")
        return later is not None

    def _unknown(self, path: Path, span: Span) -> None:
        name = ".".join(path)
        known = {".".join(leaf) for leaf in self.leaves} | set(self._attributes())
        under = sorted(one.partition(".")[2] for one in known if one.startswith(f"{path[0]}."))
        meant = suggest(".".join(path[1:]), under) if len(path) > 1 else None
        near = f"{path[0]}.{meant}" if meant else None if under else suggest(name, known)
        every = listed([f"{path[0]}.{one}" for one in under[:6]] or sorted(ROOTS))
        hint = f"did you mean `{near}`?" if near else declaring(path) or f"known are {every}"
        self.program.report("E602", f"unknown fact `{name}`", span, hint)

    def _attributes(self) -> Iterator[str]:
        for root in ENTITY_ROOTS:
            for entity in self.schema.entities.values():
                if root in ("resource", entity.name):
                    yield from (f"{root}.{declared.name}" for declared in entity.fields)


def declaring(path: Path) -> str | None:
    """How to make the fact known."""
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


def _leaves(schema: Schema) -> Iterator[tuple[Path, Fact]]:
    for fact in FACTS:
        if fact.later is None and fact.path not in DERIVED and fact.path != ("time",):
            yield fact.path, Fact(fact.type, _names(fact.path))
    yield from ((path, Fact(type_)) for path, type_ in UNSEEN.items())
    yield from ((("resource", name), Fact(Scalar.STRING)) for name in ("type", "id"))
    for path, declared in schema.by_path.items():
        types = {fact.type for fact in declared}
        yield path, Fact(types.pop() if len(types) == 1 else None)


def _names(path: Path) -> NameKind | None:
    if path == ("attestation", "by"):
        return "attester"
    return "issuer" if path[-1] == "issuer" else None
