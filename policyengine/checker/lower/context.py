"""Shared state and helpers for lowering grants, guards and limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar, cast

from policyengine import kernel as k
from policyengine.checker.lower.expressions import lower_condition
from policyengine.checker.names.program import Program
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.patterns.places import PlaceResolver
from policyengine.checker.reporter import Reporter
from policyengine.checker.types.constants import lower_literal
from policyengine.checker.types.schema import AvailableFacts, Schema
from policyengine.diagnostics.model import RelatedLocation
from policyengine.source import Span
from policyengine.syntax import nodes as ast

Declaration = TypeVar("Declaration", bound=ast.Node)
Rule = TypeVar("Rule")
NOT_FOR_GRANTS = {"approval": "E416", "behavior": "E415", "cluster": "E415"}  # roots of facts that cannot grant access
MENTIONS_NOT_FOR_GRANTS = re.compile("|".join(NOT_FOR_GRANTS))
NO_ENDPOINT_FACTS = AvailableFacts()  # the context of conditions on the caller: no endpoint is known


@dataclass(frozen=True, slots=True)
class LoweringContext:
    """The context that is known before the rules are lowered. `keyless` says whether a `define` reads a fact that
    cannot grant access. `known` holds rules that were lowered before, by the id of their declaration.
    """

    program: Program
    schema: Schema
    places: PlaceResolver
    by_kind: Mapping[type[ast.Node], list[tuple[str, ast.Declaration]]]
    keyless: bool
    known: Mapping[int, object] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, schema: Schema, places: PlaceResolver) -> LoweringContext:
        by_kind: dict[type[ast.Node], list[tuple[str, ast.Declaration]]] = {}
        for package, declaration in program.declarations():
            by_kind.setdefault(type(declaration), []).append((package, declaration))
        keyless = any(
            MENTIONS_NOT_FOR_GRANTS.search(declared.span.text) for _, declared in by_kind.get(ast.DefineDecl, ())
        )
        return cls(program, schema, places, by_kind, keyless)

    @property
    def report(self) -> Reporter:
        return self.program.report

    def context(self, package: str, here: AvailableFacts) -> ExpressionContext:
        return ExpressionContext(self.program, self.schema, package, here, {}, self.report)

    def declared(self, kind: type[Declaration]) -> Iterator[tuple[str, Declaration]]:
        """Yield every declaration of a kind, with its package."""
        yield from ((package, d) for package, d in self.by_kind.get(kind, ()) if isinstance(d, kind))

    def rules(self, kind: type[Declaration], read: Callable[[Declaration, str], Rule | None]) -> tuple[Rule, ...]:
        """Return the rules that `read` makes of the declarations of a kind, without those for which it reported an
        error. Rules that were lowered before are reused.
        """
        found: list[Rule] = []
        for package, declared in self.declared(kind):
            rule = cast("Rule | None", self.known.get(id(declared))) or read(declared, package)
            if rule is not None:
                found.append(rule)
        return tuple(found)

    def condition(self, written: ast.Expr, package: str, here: AvailableFacts) -> k.Expr | None:
        return lower_condition(written, self.context(package, here))

    def duration(self, literal: ast.Literal, code: str) -> timedelta | None:
        return positive_duration(literal, code, self.report)

    def moment(self, literal: ast.Literal) -> datetime | None:
        constant = lower_literal(literal, self.report)
        return constant.value if constant and isinstance(constant.value, datetime) else None

    def whole(self, literal: ast.Literal, least: int, code: str, what: str) -> int | None:
        digits = literal.text.replace("_", "")
        if digits.isdigit() and len(digits) <= 9 and int(digits) >= least:
            return int(digits)
        self.report(code, f"{what} must be a whole number, {least} or more", literal.span, f"write `{least}` or more")
        return None

    def once(self, items: Iterable[tuple[str, Span]], code: str, hint: str) -> None:
        """Report repeated items; the diagnostic refers to the first occurrence."""
        first: dict[str, Span] = {}
        for what, span in items:
            where = first.setdefault(what, span)
            if where is not span:
                self.report(code, f"{what} is stated twice", span, hint, [RelatedLocation("first stated here", where)])

    def packages_that_say(self, kind: type[Declaration]) -> tuple[str, ...]:
        """Return the packages that contain a declaration of a kind that applies to the whole package; report
        repetitions.
        """
        said = [(package, f"`{rule_text(declared.span)}`", declared.span) for package, declared in self.declared(kind)]
        packages = sorted({package for package, _, _ in said})
        for package in packages:
            own = [(what, span) for owner, what, span in said if owner == package]
            self.once(own, "E405", "state it once in the package")
        return tuple(packages)


def positive_duration(literal: ast.Literal, code: str, report: Reporter) -> timedelta | None:
    """Lower a duration. Report a zero duration, which would allow nothing; return None if an error was reported."""
    constant = lower_literal(literal, report)
    value = constant.value if constant else None
    if value == timedelta(0):
        report(code, f"`{literal.text}` allows nothing", literal.span, "write a longer duration: `15m`")
        return None
    return value if isinstance(value, timedelta) else None


def facts_read(expression: k.Expr) -> Iterator[tuple[k.Fact, Span]]:
    """Yield each fact in the expression with its place in the rule. The place of a fact inside a `define` is the use of
    the definition.
    """
    pending: list[tuple[k.Expr, Span | None]] = [(expression, None)]
    while pending:
        node, use = pending.pop()
        if isinstance(node, k.Fact):
            yield node, use or node.span
        elif isinstance(node, k.DefinitionRef):
            pending.append((node.expression, use or node.span))
        else:
            pending += [(part, use) for part in reversed(list(k.children(node)))]


def rule_text(span: Span) -> str:
    """Return the text of a rule as written, on one line."""
    return " ".join(span.text.split())


def block_head_span(declaration: ast.Node, head: ast.Node) -> Span:
    """Return the span of a block's head, such as `agent "x"`."""
    return Span(declaration.span.source, declaration.span.start, max(head.span.end, declaration.span.start + 1))


def first_item(items: Sequence[ast.Node], kind: type[Declaration]) -> Declaration | None:
    return next((item for item in items if isinstance(item, kind)), None)


def lower_agent_name(name: ast.Text, draft: LoweringContext) -> k.ExactName | k.NamePattern:
    """Lower an agent name, in which `*` matches any run of characters."""
    written = check_name_not_empty(name, draft)
    return k.NamePattern(written) if "*" in written else k.ExactName(written)


def check_name_not_empty(name: ast.Text, draft: LoweringContext) -> str:
    if not name.value:
        draft.report("E417", "the name is empty", name.span, "write the name")
    return name.value
