"""Read the text of a policy to names, types and typed expressions, without the rest of the checker."""

from collections.abc import Iterable
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine.checker.lower.expressions import (
    AvailableFacts,
    ExpressionContext,
    check_definitions,
    lower_condition,
    lower_value,
)
from policyengine.checker.names.program import Program
from policyengine.checker.patterns.places import PlaceResolver
from policyengine.checker.reporter import Reporter
from policyengine.checker.types.schema import Schema
from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse import parse
from policyengine.typesystem import Type

WORLD = """
enum plan = free < team < enterprise
enum level = low < high
entity team in team
entity user {
  roles: set<string>  tenant: string  plan: plan  plans: set<plan>
  manager: user?  age: int  suspended: bool  since: time
} in team
entity folder { approvers: set<user or team> inherited  title: string } in folder
entity invoice { tenant: string  owner: user  approvers: set<user or team> inherited  total: number } in folder
facts { context.risk: number?  context.net: cidr  context.level: level }
facts on POST /v1/invoices/{id: invoice}/refunds {
  body.amount: number  body.n: int  body.to: string?  body.card: { number: string  last: int? }  body.wait: duration
}
let internal = [10.0.0.0/8, 192.168.0.0/16]
let paid = [team, enterprise]
let boss = user "bob"
define same_tenant = user.tenant == resource.tenant
define office_hours = time within mon..fri 08:00..18:00 "Europe/Berlin"
"""
PLACE = "POST /v1/invoices/{id: invoice}/refunds"


@dataclass(frozen=True, slots=True)
class Read:
    """The result of reading a text; `expression` is the requested condition, if any."""

    program: Program
    schema: Schema
    findings: tuple[Diagnostic, ...]
    expression: k.Expr | None = None

    @property
    def codes(self) -> list[str]:
        return [finding.code for finding in self.findings]


def modules(*texts: str) -> list[ast.Module]:
    found = []
    for number, text in enumerate(texts):
        module, findings = parse(Source(f"{number}.policy", text))
        assert not findings, [finding.render() for finding in findings]
        assert module is not None
        found.append(module)
    return found


def read(*texts: str) -> Read:
    """Return the names and types of whole policies, and their definitions."""
    report = Reporter()
    program = Program.of(modules(*texts), report)
    schema = Schema.of(program, PlaceResolver(program))
    check_definitions(program, schema)
    return Read(program, schema, report.diagnostics)


def ask(condition: str, place: str | None = PLACE, world: str = WORLD) -> Read:
    """Read a condition that is required at a place (None: about the caller), with a set of declarations."""
    return lower(condition, place, world, None)


def give(value: str, expected: Type, place: str = PLACE) -> Read:
    """Return a value of a type."""
    return lower(value, place, WORLD, expected)


def lower(text: str, place: str | None, world: str, expected: Type | None) -> Read:
    report = Reporter()
    [module] = modules(f'{world}\nguard "g" on {place or "/nowhere"} {{ require {text}\n}}')
    program = Program.of([module], report)
    places = PlaceResolver(program)
    schema = Schema.of(program, places)
    check_definitions(program, schema)
    guard = module.declarations[-1]
    assert isinstance(guard, ast.GuardDecl)
    assert guard.place is not None
    [require] = guard.items
    assert isinstance(require, ast.Require)
    here = places.facts_here(guard.place.targets, "main") if place else AvailableFacts()
    assert here is not None
    context = ExpressionContext(program, schema, "main", here, {}, report)
    if expected is None:
        found = lower_condition(require.condition, context)
    else:
        found = lower_value(require.condition, context, expected)
    return Read(program, schema, report.diagnostics, found)


def told(findings: Iterable[Diagnostic]) -> list[tuple[str, str, str, str | None]]:
    """Return the code, message, underlined text and hint of each finding."""
    return [(finding.code, finding.message, finding.span.text, finding.hint) for finding in findings]
