"""Checks `let` and `define` before they are used: cycles, and sizes after expansion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.checker.names.program import Program
from policyengine.checker.names.symbols import Symbol
from policyengine.checker.reporter import Reporter
from policyengine.checker.type_names import join_words
from policyengine.diagnostics.model import RelatedLocation
from policyengine.syntax import nodes as ast

# Without these limits, a policy of a few lines could expand to a condition of billions of parts.
MAX_PARTS = 10_000
MAX_DEPTH = 150

Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ExpressionSize:
    """The number of parts and the nesting depth of an expression, with all definitions expanded."""

    parts: int
    depth: int

    @property
    def too_much(self) -> bool:
        return self.parts > MAX_PARTS or self.depth > MAX_DEPTH


ExpressionSizes: TypeAlias = Mapping[Key, ExpressionSize]
EMPTY_SIZE = ExpressionSize(0, 0)


def definition_key(symbol: Symbol) -> Key:
    return symbol.package, symbol.name


def definition_body(symbol: Symbol) -> ast.Expr | None:
    match symbol.declaration:
        case ast.LetDecl(_, value):
            return value
        case ast.DefineDecl(_, condition):
            return condition
        case _:
            return None


def leading_definition(reference: ast.Reference, package: str, program: Program) -> tuple[Symbol, int] | None:
    """Return the `let` or `define` with which a dotted name begins, and how many parts of the name belong to it. Return
    None if the name begins with neither.
    """
    names = reference.name.split(".")
    for length in (1, 2):
        text = ".".join(names[:length])
        symbol = program.lookup(package, "let", text) or program.lookup(package, "define", text)
        if symbol is not None and len(names) >= length:
            return symbol, length
    return None


def measure_all(program: Program, report: Reporter) -> dict[Key, ExpressionSize]:
    """Return the size of each definition. Circular and too large definitions are reported and left out."""
    symbols = {
        definition_key(s): s
        for package in program.packages.values()
        for s in package.symbols.values()
        if definition_body(s)
    }
    uses = {key: dict.fromkeys(used_definitions(symbol, program)) for key, symbol in symbols.items()}
    measures: dict[Key, ExpressionSize] = {}
    for key in dependency_order(uses):
        symbol = symbols[key]
        body = definition_body(symbol)
        if body is not None and all(inner in measures for inner in uses[key]):
            found = measure(body, symbol.package, program, measures)
            if found.too_much:
                report_size(found, symbol.declaration.name, symbol.name, report)
            else:
                measures[key] = found
    report_cycles(uses, symbols, report)
    return measures


def used_definitions(symbol: Symbol, program: Program) -> Iterator[Key]:
    body = definition_body(symbol)
    for node in ast.walk(body) if body is not None else ():
        found = leading_definition(node, symbol.package, program) if isinstance(node, ast.Reference) else None
        if found is not None:
            yield definition_key(found[0])


def dependency_order(uses: Mapping[Key, Iterable[Key]]) -> list[Key]:
    """Return all keys that are not part of a cycle and do not depend on one, dependencies first."""
    users: dict[Key, list[Key]] = {key: [] for key in uses}
    waiting = {key: len(list(inner)) for key, inner in uses.items()}
    for key, inner in uses.items():
        for used_key in inner:
            users[used_key].append(key)
    ready = [key for key, count in waiting.items() if count == 0]
    for key in ready:  # grows during iteration
        for user in users[key]:
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    return ready


def circular_definitions(uses: Mapping[Key, Iterable[Key]]) -> list[Key]:
    """Return the definitions that use themselves, and the definitions that use one of these."""
    fine = set(dependency_order(uses))
    return [key for key in uses if key not in fine]


def measure(body: ast.Expr, package: str, program: Program, measures: ExpressionSizes) -> ExpressionSize:
    parts, deepest = 0, 0
    pending: list[tuple[ast.Node, int]] = [(body, 1)]
    while pending:
        node, depth = pending.pop()
        named = leading_definition(node, package, program) if isinstance(node, ast.Reference) else None
        inner = measures.get(definition_key(named[0]), EMPTY_SIZE) if named else EMPTY_SIZE
        parts, deepest = parts + 1 + inner.parts, max(deepest, depth + inner.depth)
        pending += [(child, depth + 1) for child in ast.children(node)]
    return ExpressionSize(parts, deepest)


def report_size(found: ExpressionSize, where: ast.Node, name: str, report: Reporter) -> None:
    if found.parts > MAX_PARTS:
        message = f"{name_or_this(name)} has {found.parts:,} parts once its definitions are expanded"
        report("E248", message, where.span, f"the limit is {MAX_PARTS:,}: simplify it")
    else:
        message = f"{name_or_this(name)} nests {found.depth} levels deep once its definitions are expanded"
        report("E248", message, where.span, f"the limit is {MAX_DEPTH}: chain fewer definitions")


def name_or_this(name: str) -> str:
    return f"`{name}`" if name else "this"


def report_cycles(uses: Mapping[Key, Iterable[Key]], symbols: Mapping[Key, Symbol], report: Reporter) -> None:
    """Report each cycle once. The members of a reported cycle are then removed, because another cycle may depend on
    them.
    """
    left = {key: list(uses[key]) for key in circular_definitions(uses)}
    while left:
        circles = list(find_cycles(left))
        for circle in circles:
            report_cycle([symbols[key] for key in circle], report)
        told = {key for circle in circles for key in circle}
        left = {key: [one for one in inner if one not in told] for key, inner in left.items() if key not in told}
        left = {key: [one for one in left[key] if one in left] for key in left}
        left = {key: left[key] for key in circular_definitions(left)}


def find_cycles(uses: Mapping[Key, list[Key]]) -> Iterator[list[Key]]:
    """Yield cycles, found by following the first use of each definition. Each key is visited once."""
    seen: set[Key] = set()
    for start in uses:
        walked: list[Key] = []
        key = start
        while key not in seen:
            seen.add(key)
            walked.append(key)
            key = next(inner for inner in uses[key] if inner in uses)
        if key in walked:
            yield walked[walked.index(key) :]


def report_cycle(circle: list[Symbol], report: Reporter) -> None:
    first, *others = circle
    through = f" through {join_words(symbol.name for symbol in others)}" if others else ""
    where = [RelatedLocation(f"`{symbol.name}` is declared here", symbol.span) for symbol in others]
    message = f"`{first.name}` is defined in terms of itself{through}"
    report("E213", message, first.span, "a definition cannot use itself, directly or through others", where)
