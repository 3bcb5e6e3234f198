"""What is read and checked but not enforced yet: profiles and invariants. Each use is an error."""

from __future__ import annotations

from policyengine.checker.lower.context import LoweringContext
from policyengine.checker.types.schema import EVERYWHERE
from policyengine.source import Span
from policyengine.syntax import nodes as ast

REMOVE = "remove it: a policy that only seems to limit something would be worse than none"


def check_unsupported(draft: LoweringContext) -> None:
    for package, profile in draft.declared(ast.ProfileDecl):
        report_unsupported("E905", "profile", profile, profile.name.span, draft)
        draft.places.patterns([step.target for step in profile.steps], package)
    for package, invariant in draft.declared(ast.InvariantDecl):
        report_unsupported("E906", "invariant", invariant, invariant.name.span, draft)
        check_invariant(invariant, package, draft)


def report_unsupported(code: str, word: str, declared: ast.Node, name: Span, draft: LoweringContext) -> None:
    span = Span(name.source, declared.span.start, name.end)
    draft.report(code, f"`{word}` is not enforced yet", span, REMOVE)


def check_invariant(invariant: ast.InvariantDecl, package: str, draft: LoweringContext) -> None:
    for claim in invariant.claims:
        here = draft.places.facts_here(claim.targets, package)
        if claim.when is not None:
            draft.condition(claim.when, package, here or EVERYWHERE)
