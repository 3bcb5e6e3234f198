"""The types of declarations: enums, entities and facts. They are complete before any expression is lowered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from policyengine import kernel as k
from policyengine.checker.names.definitions import ExpressionSizes, measure_all
from policyengine.checker.names.program import Program, report_private
from policyengine.checker.names.symbols import BUILT_IN_ENTITIES, IMPLICIT_USER, Symbol
from policyengine.checker.reporter import Reporter
from policyengine.checker.type_names import describe_type, join_words
from policyengine.checker.types.fact_conflicts import DeclaredFact, FactPlaces, Path, check_fact_conflicts
from policyengine.diagnostics.model import RelatedLocation
from policyengine.diagnostics.suggest import suggest
from policyengine.syntax import nodes as ast
from policyengine.typesystem import (
    EnumType,
    FieldType,
    ListType,
    RecordType,
    RefType,
    Scalar,
    SetType,
    Type,
    UnresolvedType,
)
from policyengine.vocabulary import CREDENTIAL_KIND, ENTITY_ROOTS, FACTS

FACT_ROOTS = ("args", "body", "context")
# Attributes that the request itself provides, so no entity declares them.
RESERVED_ATTRIBUTES = {
    root: frozenset({"id", *(fact.path[1] for fact in FACTS if fact.path[0] == root and not fact.declarable)})
    for root in ENTITY_ROOTS
}
NOTHING_RESERVED = frozenset({"id"})
COLLECTIONS = ("set", "list")
FOREIGN_TYPES = {
    "array": "list",
    "boolean": "bool",
    "date": "time",
    "datetime": "time",
    "decimal": "number",
    "double": "number",
    "float": "number",
    "str": "string",
    "text": "string",
    "timestamp": "time",
}
SCALARS: Mapping[str, Scalar] = {str(scalar): scalar for scalar in Scalar}
UNRESOLVED = UnresolvedType()


@dataclass(frozen=True, slots=True)
class AvailableFacts:
    """The facts that exist where a rule applies. `resource` is the type that may be bound there (None: not bound),
    `params` are the captures with their types, and `place` is the place of the rule. `everywhere` is true for a
    `define` on its own, where any fact may exist; `binds` is true for the values of a `with`.
    """

    resource: RefType | None = None
    params: Mapping[str, Type] = field(default_factory=dict)
    place: k.Place | None = None
    everywhere: bool = False
    binds: bool = False


EVERYWHERE = AvailableFacts(everywhere=True)


class PlaceLookup(Protocol):
    """The interface to the resolver of places. It is passed in because the resolver itself lowers expressions."""

    def place(self, place: ast.Place, package: str) -> k.Place | None:
        """Return the patterns of `on …`. Returns None if an error was reported."""

    def here(self, place: k.Place) -> AvailableFacts:
        """Return the facts that exist at the place."""

    def facts_here(self, targets: tuple[ast.Target, ...], package: str) -> AvailableFacts | None:
        """Return the facts that exist at the targets. Returns None if an error was reported."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Enums by package and name, entities by name, and facts in declaration order and by path."""

    enums: Mapping[tuple[str, str], EnumType]
    entities: Mapping[str, k.EntityType]
    facts: tuple[DeclaredFact, ...]
    places: PlaceLookup
    by_path: Mapping[Path, FactPlaces]
    measures: ExpressionSizes  # the size of each valid `let` and `define`
    levels: Mapping[str, tuple[tuple[str, bool], ...]] = field(default_factory=dict)  # the levels of inherited sets

    @classmethod
    def of(cls, program: Program, places: PlaceLookup, report: Reporter | None = None) -> Schema:
        reader = TypeDeclarationReader(program, places, report or program.report)
        enums = reader.enums()
        entities = reader.entities()
        facts = tuple(reader.facts())
        by_path: dict[Path, list[DeclaredFact]] = {}
        for fact in facts:
            by_path.setdefault(fact.path, []).append(fact)
        declared = {path: FactPlaces(tuple(found)) for path, found in by_path.items()}
        check_fact_conflicts(declared, reader.report)
        return cls(
            enums, entities, facts, places, declared, measure_all(program, reader.report), inherited_levels(entities)
        )

    def enums_in(self, program: Program, package: str) -> Iterator[EnumType]:
        """Yield every enum that the package may use, built-in enums last."""
        for name in program.visible(package, "enum"):
            symbol = program.lookup(package, "enum", name)
            if symbol is not None and (symbol.package, symbol.name) in self.enums:
                yield self.enums[symbol.package, symbol.name]
        yield CREDENTIAL_KIND


def enum_of(symbol: Symbol) -> EnumType:
    assert isinstance(symbol.declaration, ast.EnumDecl)
    return EnumType(symbol.name, tuple(dict.fromkeys(value.text for value in symbol.declaration.values)))


@dataclass(frozen=True, slots=True)
class TypeDeclarationReader:
    """Reads declarations of types and reports their errors."""

    program: Program
    places: PlaceLookup
    report: Reporter

    def symbols(self, kind: str) -> Iterator[Symbol]:
        for package in self.program.packages.values():
            yield from (symbol for symbol in package.symbols.values() if symbol.kind == kind)

    # ── Types ─────────────────────────────────────────────────────────────────────────────────

    def type(self, written: ast.TypeExpr, package: str) -> Type:
        match written:
            case ast.RecordTypeExpr(fields):
                return RecordType(tuple(self.fields(fields, package)))
            case ast.NamedTypeExpr(name, parameters):
                if name.text in COLLECTIONS:
                    return self.collection(written, package)
                if parameters:
                    hint = "only `set<…>` and `list<…>` take an element type"
                    self.report("E219", f"`{name.text}` takes no type in angle brackets", written.span, hint)
                return self.plain(name, package)
            case _:
                assert_never(written)

    def plain(self, name: ast.Name, package: str) -> Type:
        """Return the scalar, enum or entity type of a name."""
        if name.text in SCALARS:
            return SCALARS[name.text]
        symbol = self.program.lookup(package, "enum", name.text) or self.program.lookup(package, "entity", name.text)
        if symbol is None:
            known = [*self.program.visible(package, "enum", "entity"), *SCALARS, *COLLECTIONS]
            meant = FOREIGN_TYPES.get(name.text.lower()) or suggest(name.text, known)
            hint = (
                f"did you mean `{meant}`?"
                if meant
                else f"the types are {join_words([*SCALARS, *COLLECTIONS])}, and declared enums and entities"
            )
            self.report("E205", f"unknown type `{name.text}`", name.span, hint)
            return UNRESOLVED
        if not self.program.is_visible(package, symbol):
            report_private(symbol, name.text, name.span, self.report)
            return UNRESOLVED
        return enum_of(symbol) if symbol.kind == "enum" else RefType(frozenset({symbol.name}))

    def collection(self, written: ast.NamedTypeExpr, package: str) -> Type:
        word = written.name.text
        elements = [self.element(parameter, word, package) for parameter in written.parameters]
        if not elements:
            self.report("E219", f"`{word}` needs an element type", written.span, f"write `{word}<string>`")
            return UNRESOLVED
        element = elements[0] if len(elements) == 1 else self.union(elements, written)
        if word == "list":
            return ListType(element)
        if isinstance(element, SetType | ListType | RecordType):
            self.report("E219", f"a set cannot contain {element}", written.span, "write `list` in place of `set`")
            return UNRESOLVED
        return SetType(element)

    def element(self, written: ast.TypeExpr, word: str, package: str) -> Type:
        if written.optional:
            hint = f"an element of a {word} cannot be optional"
            self.report("E218", "only a whole fact or attribute can be optional", written.span, hint)
        return self.type(written, package)

    def union(self, elements: list[Type], written: ast.NamedTypeExpr) -> Type:
        entities: frozenset[str] = frozenset()
        for element, parameter in zip(elements, written.parameters, strict=True):
            if isinstance(element, RefType):
                entities |= element.entities
            elif not isinstance(element, UnresolvedType):
                self.report(
                    "E219", f"`or` joins entities, but `{element}` is not an entity", parameter.span, "use one type"
                )
                return UNRESOLVED
        return RefType(entities) if entities else UNRESOLVED

    def fields(self, written: tuple[ast.FieldDecl, ...], package: str) -> Iterator[FieldType]:
        """Yield the members of a record."""
        seen: dict[str, ast.FieldDecl] = {}
        for item in written:
            if self.is_new(item, seen):
                if item.inherited:
                    self.report(
                        "E218", "only an attribute of an entity can be inherited", item.span, "remove `inherited`"
                    )
                yield FieldType(item.name.text, self.type(item.type, package), item.type.optional)

    def is_new(self, item: ast.FieldDecl, seen: dict[str, ast.FieldDecl]) -> bool:
        text, span = item.name.text, item.name.span
        if "." in text:
            self.report(
                "E215",
                f"the name `{text}` cannot contain dots here",
                span,
                "write a record: `card: { number: string }`",
            )
            return False
        first = seen.setdefault(text, item)
        if first is not item:
            where = [RelatedLocation("first declared here", first.name.span)]
            self.report("E210", f"`{text}` is declared twice", span, "give one of them another name", where)
        return first is item

    # ── Enums and entities ────────────────────────────────────────────────────────────────────

    def enums(self) -> dict[tuple[str, str], EnumType]:
        return {(symbol.package, symbol.name): enum_of(symbol) for symbol in self.symbols("enum")}

    def entities(self) -> dict[str, k.EntityType]:
        found = {s.name: self.entity(s) for s in self.program.entities.values()}
        found.setdefault("user", k.EntityType("user", (), (), span=IMPLICIT_USER.span))
        return found

    def entity(self, symbol: Symbol) -> k.EntityType:
        declared = symbol.declaration
        assert isinstance(declared, ast.EntityDecl)
        parents = [self.program.find(symbol.package, "entity", parent, self.report) for parent in declared.parents]
        fields = tuple(self.attributes(declared, symbol.package))
        return k.EntityType(symbol.name, fields, tuple(p.name for p in parents if p), span=declared.span)

    def attributes(self, declared: ast.EntityDecl, package: str) -> Iterator[FieldType]:
        seen: dict[str, ast.FieldDecl] = {}
        for item in declared.fields:
            if self.is_new(item, seen) and not self.is_reserved(item, declared.name.text):
                type_ = self.type(item.type, package)
                inherited = item.inherited and self.can_inherit(item, type_, declared)
                yield FieldType(item.name.text, type_, item.type.optional, inherited, inherited and item.else_empty)

    def is_reserved(self, item: ast.FieldDecl, entity: str) -> bool:
        reserved = item.name.text in RESERVED_ATTRIBUTES.get(entity, NOTHING_RESERVED)
        if reserved:
            message = f"every {entity} already has `{item.name.text}`"
            self.report("E211", message, item.name.span, "remove it, or choose another name")
        return reserved

    def can_inherit(self, item: ast.FieldDecl, type_: Type, declared: ast.EntityDecl) -> bool:
        name = declared.name.text
        if not isinstance(type_, SetType | UnresolvedType):
            message, hint = (
                f"only a set can be inherited, but `{item.name.text}` is {describe_type(type_)}",
                "remove `inherited`",
            )
            self.report("E218", message, item.type.span, hint)
        elif not declared.parents and not (item.else_empty and self.holds_others(name)):
            message, hint = (
                f"`{name}` is in no entity from which it could inherit",
                f"write `entity {name} {{ … }} in folder`",
            )
            self.report("E218", message, item.span, hint)
        elif item.else_empty and item.type.optional:
            message = f"`{item.name.text}` is never absent: `else []` makes it empty"
            self.report("E218", message, item.type.span, "remove `?`")
        else:
            return True
        return False

    def holds_others(self, name: str) -> bool:
        """Return whether other entities can be in this entity. They inherit from it, even if it inherits from no other
        entity.
        """
        declared = (symbol.declaration for symbol in self.program.entities.values())
        return any(
            parent.text.rpartition(".")[2] == name
            for one in declared
            if isinstance(one, ast.EntityDecl)
            for parent in one.parents
        )

    # ── Facts ─────────────────────────────────────────────────────────────────────────────────

    def facts(self) -> Iterator[DeclaredFact]:
        for package, declared in self.program.declarations():
            if isinstance(declared, ast.FactsDecl):
                yield from self.facts_of(declared, package)

    def facts_of(self, declared: ast.FactsDecl, package: str) -> Iterator[DeclaredFact]:
        place = self.places.place(declared.place, package) if declared.place else None
        nowhere = declared.place is not None and place is None
        seen: dict[str, ast.FieldDecl] = {}
        for item in declared.fields:
            fact = self.fact(item, place, package)
            first = seen.setdefault(item.name.text, item)
            if first is not item:
                where = [RelatedLocation("first declared here", first.name.span)]
                self.report("E210", f"`{item.name.text}` is declared twice", item.name.span, "remove one", where)
            elif fact is not None:
                # If a place has an error, its facts are treated as existing everywhere, so that no further errors
                # follow.
                yield fact if not nowhere else DeclaredFact(fact.path, fact.type, True, None, package, fact.span)

    def fact(self, item: ast.FieldDecl, place: k.Place | None, package: str) -> DeclaredFact | None:
        path = tuple(item.name.text.split("."))
        type_ = self.type(item.type, package)
        if item.inherited:
            self.report("E218", "only an attribute of an entity can be inherited", item.span, "remove `inherited`")
        if path[0] not in FACT_ROOTS or len(path) == 1:
            self.report_root(item.name, path)
            return None
        return DeclaredFact(path, type_, item.type.optional, place, package, item.name.span)

    def report_root(self, name: ast.Name, path: Path) -> None:
        built_in = next((fact for fact in FACTS if fact.path == path), None)
        hint = f"write `body.{path[-1]}`, `args.{path[-1]}` or `context.{path[-1]}`"
        if built_in is not None:
            message, hint = f"`{name.text}` is built in: {built_in.doc}", "remove it"
        elif path[0] in BUILT_IN_ENTITIES and len(path) > 1:
            message = f"`{name.text}` is an attribute of an entity"
            hint = f"write `entity {path[0]} {{ {path[1]}: … }}`"
        else:
            message = f"`{name.text}` does not begin with `body.`, `args.` or `context.`"
        self.report("E216", message, name.span, hint)


def inherited_levels(entities: Mapping[str, k.EntityType]) -> dict[str, tuple[tuple[str, bool], ...]]:
    """Return, for each inherited set, the entities that declare it and whether that declaration has `else []`."""
    inherited = {field.name for entity in entities.values() for field in entity.fields if field.inherited}
    declared = {name: [(one.name, one.field(name)) for one in entities.values()] for name in inherited}
    return {
        name: tuple(sorted((entity, field.else_empty) for entity, field in some if field is not None))
        for name, some in declared.items()
    }
