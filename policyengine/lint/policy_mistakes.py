"""Probable mistakes, which every check reports; an allowance on the same line silences a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from policyengine import kernel as k
from policyengine.checker.names.symbols import package_of
from policyengine.checker.patterns.glob_index import GlobIndex
from policyengine.checker.patterns.overlap import globs_meet
from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.lint.dead_limit_conditions import conditions_of_limits
from policyengine.lint.dead_rules import all_blocks, block_conditions, in_source_order
from policyengine.lint.overlapping_grants import laxer_twins
from policyengine.lint.rules.approvers import confirms_without_approvers
from policyengine.lint.rules.call_orders import (
    orders_without_effect,
    unmatched_steps,
    unread_orders,
    vain_sequence_reads,
)
from policyengine.lint.rules.learned_behavior import (
    escaped_clamps,
    group_floors,
    profiles_of_nobody,
    thresholds_out_of_range,
    unread_profiles,
)
from policyengine.lint.rules.letter_case import paths_differing_in_case
from policyengine.lint.rules.loops import costly_loops
from policyengine.lint.rules.shared_users import shared_users
from policyengine.lint.rules.unready_classes import unready_classes
from policyengine.lint.unused import unused_declarations
from policyengine.source import Span
from policyengine.syntax import nodes as ast


def probable_mistakes(kernel: k.Kernel, modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    in_order = in_source_order(kernel)
    for meaning in KERNEL_CHECKS:
        yield from meaning(in_order)
    yield from unused_declarations(modules)
    yield from unrestricted_users(modules)
    yield from unrecorded_chains(kernel, modules)
    yield from delegations_to_nobody(modules)
    for declaration in declarations_in(modules):
        for node in (declaration, *ast.children(declaration)):
            yield from vain_declarations(node)
    yield from head_methods(modules)


def wrong_tests(_: k.Kernel, modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    """Yield the errors among the findings; only tests produce errors."""
    tests = (declaration for declaration in declarations_in(modules) if isinstance(declaration, ast.TestDecl))
    yield from (found for test in tests for found in vain_declarations(test) if found.is_error)


def declarations_in(modules: Sequence[ast.Module]) -> Iterator[ast.Declaration]:
    for module in modules:
        yield from (d.declaration if isinstance(d, ast.Export) else d for d in module.declarations)


# ── Declarations as written ────────────────────────────────────────────────────────────────────


def vain_declarations(node: ast.Node) -> Iterator[Diagnostic]:
    """Yield the findings for a declaration without effect, or a block in it without effect."""
    match node:
        case ast.AgentDecl(head=who, items=items) if not any(isinstance(i, ast.May | ast.MayDelegate) for i in items):
            yield Diagnostic("W453", "this agent block grants nothing", who.span, "add `may …`, or remove the block")
        case ast.GuardDecl(name=name, items=()):
            hint = "add `deny`, `require`, `confirm` or an obligation"
            yield Diagnostic("W550", f"guard `{name.value}` does nothing", name.span, hint)
        case ast.TestDecl(name=name, items=items) if not any(isinstance(i, CHECKING) for i in items):
            hint = "add a request: `GET /a => allow`"
            yield Diagnostic("E651", f"test `{name.value}` checks nothing", name.span, hint)
        case _ if (word := empty_block(node)) is not None:
            yield Diagnostic("W455", f"this `{word}` block is empty", node.span, "fill it, or remove it")


CHECKING = ast.Shot | ast.CaseTable | ast.CaseMatrix | ast.Forall | ast.Skip


def head_methods(modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    for module in modules:
        if "HEAD" in module.span.text:  # a cheap search first: `HEAD` is rare, and walking the tree is slow
            found = (node for node in ast.walk(module) if isinstance(node, ast.HttpPattern) and "HEAD" in node.methods)
            yield from map(head_finding, found)


def head_finding(node: ast.HttpPattern) -> Diagnostic:
    at = node.span.text.find("HEAD")
    span = Span(node.span.source, node.span.start + at, node.span.start + at + len("HEAD"))
    return Diagnostic("W350", "`HEAD` is decided as `GET`", span, "write `GET`: it covers both")


def empty_block(node: ast.Node) -> str | None:
    match node:
        case ast.UserDecl(items=()):
            return "user"
        case ast.AnyoneDecl(items=()):
            return "anyone"
        case ast.DelegationDecl(limits=()):
            return "delegation"
        case ast.CredentialDecl(items=()):
            return "credential"
        case ast.FactsDecl(fields=()):
            return "facts"
        case ast.FixtureDecl(setup=()):
            return "fixture"
        case _:
            return None


def unrestricted_users(modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    ordered = sorted(modules, key=package_of)
    for package, files in groupby(ordered, key=package_of):
        declarations = [declaration for module in files for declaration in module.declarations]
        user = next((d for d in declarations if isinstance(d, ast.UserDecl)), None)
        for line in (d for d in declarations if isinstance(d, ast.UnrestrictedUsers)):
            if user is not None:
                message = f"`users unrestricted` lets the agents of `{package}` bypass its user blocks"
                hint = (
                    "keep `users unrestricted` or the user blocks: "
                    "with both, user blocks apply only to users without an agent"
                )
                yield Diagnostic("W454", message, line.span, hint, (RelatedLocation("a user block", user.head.span),))


# ── Meaning of the policy ──────────────────────────────────────────────────────────────────────


def unrecorded_chains(kernel: k.Kernel, modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    limit = next((limit for limit in kernel.delegation if limit.depth is not None), None)
    if limit is None:
        return
    for issuer in declarations_in(modules):
        if isinstance(issuer, ast.IssuerDecl) and not any(is_recording(item) for item in issuer.items):
            message = f"issuer `{issuer.name.text}` does not record chains, so all its agents fail the depth limit"
            related = (RelatedLocation("the limit", limit.span),)
            yield Diagnostic(
                "W452", message, issuer.name.span, "add `records chains` if the issuer records them", related
            )


def is_recording(item: ast.Node) -> bool:
    return isinstance(item, ast.TrustAnchorOption) and item.name == "records chains"


def delegations_to_nobody(modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    """Yield a W422 for each delegate that no agent block names, because its name is probably misspelled."""
    agents = [agent for agent in declarations_in(modules) if isinstance(agent, ast.AgentDecl)]
    names = [agent.head.name.value for agent in agents if isinstance(agent.head, ast.PrincipalName)]
    if len(names) < len(agents):
        return  # a block for a group or a condition may apply to any agent
    index: GlobIndex[str] = GlobIndex()
    for name in names:
        index.add(name, name)
    for node in (item for agent in agents for item in agent.items):
        if (
            isinstance(node, ast.MayDelegate)
            and isinstance(node.to, ast.PrincipalName)
            and is_nobody(node.to.name.value, index)
        ):
            hint = did_you_mean(node.to.name.value, names) or "add a block for this agent: it also needs its own grants"
            yield Diagnostic("W422", f"no agent block names `{node.to.name.value}`", node.to.name.span, hint)


def is_nobody(name: str, names: GlobIndex[str]) -> bool:
    return not any(globs_meet(name, known) for known, _ in names.near(name))


def vacuous_grants(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for block in all_blocks(kernel):
        for condition, _ in block_conditions(block):
            yield from vacuous_quantifiers(condition, True, "W451", "open")


def vacuous_requirements(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield the vacuous quantifiers in requirements. `require c` is lowered to `deny when not c`, so `c` is under a
    `not`.
    """
    for guard in kernel.guards:
        for effect in guard.effects:
            if isinstance(effect, k.Deny) and effect.condition is not None:
                yield from vacuous_quantifiers(effect.condition, False, "W551", "pass")


def vacuous_limits(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for _, condition, loosens in conditions_of_limits(kernel):
        yield from vacuous_quantifiers(condition, loosens, "W551", "pass more often")


def vacuous_quantifiers(condition: k.Expr, positive: bool, code: str, verb: str) -> Iterator[Diagnostic]:
    """Yield a finding for each `all x in s: …` that opens an endpoint or lets a request pass when `s` is empty, unless
    the condition tests whether `s` has an element.
    """
    pending = [(condition, positive)]
    while pending:
        expr, sign = pending.pop()
        match expr:
            case k.Not(operand):
                pending.append((operand, not sign))
            case k.DefinitionRef(expression=inner):
                pending.append((inner, sign))
            case k.And(items) | k.Or(items):
                pending.extend((item, sign) for item in items)
            case k.Quantifier(word, _, domain, inner):
                if word == "all" and sign and may_be_empty(domain, condition):
                    yield vacuous_finding(expr, code, verb)
                pending.append((inner, sign))
            case _:
                pass


def may_be_empty(domain: k.Expr, condition: k.Expr) -> bool:
    """Return whether a set may be empty: it is not a literal, and no part of the condition tests whether it has an
    element.
    """
    known = isinstance(domain, (k.Constant, k.Collection))
    return not known and all(domain not in nonempty_sets(part) for part in k.walk(condition))


def vacuous_finding(quantifier: k.Quantifier, code: str, verb: str) -> Diagnostic:
    domain = " ".join(quantifier.domain.span.text.split())
    message = f"an empty `{domain}` lets this {verb}: `all` is true for an empty set"
    hint = f"add `size({domain}) > 0 and` if it must contain an element"
    return Diagnostic(code, message, quantifier.span, hint)


def nonempty_sets(part: k.Expr) -> tuple[k.Expr, ...]:
    """Return the sets that this part of a condition tests for an element, for example with `size`."""
    match part:
        case k.Call(function="size", arguments=arguments):
            return arguments
        case k.Quantifier(word="any", domain=domain):
            return (domain,)
        case k.Relation("has" | "holds", collection):
            return (collection,)
        case k.Relation("overlaps", left, right):
            return (left, right)
        case _:
            return ()


KERNEL_CHECKS: tuple[Callable[[k.Kernel], Iterator[Diagnostic]], ...] = (
    laxer_twins,
    shared_users,
    vacuous_grants,
    vacuous_requirements,
    vacuous_limits,
    paths_differing_in_case,
    costly_loops,
    profiles_of_nobody,
    unread_profiles,
    unmatched_steps,
    orders_without_effect,
    unread_orders,
    vain_sequence_reads,
    thresholds_out_of_range,
    escaped_clamps,
    unready_classes,
    group_floors,
    confirms_without_approvers,
)
