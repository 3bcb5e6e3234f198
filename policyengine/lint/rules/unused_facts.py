"""Facts that no rule reads, and issuers and attesters that no block requires."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policyengine import kernel as k
from policyengine.checker.types.schema import FACT_ROOTS
from policyengine.diagnostics.model import Diagnostic
from policyengine.lint.dead_limit_conditions import conditions_of_limits
from policyengine.lint.dead_rules import all_blocks, block_conditions
from policyengine.lint.policy_mistakes import declarations_in
from policyengine.lint.unused import names_in, prefixes
from policyengine.syntax import nodes as ast


def unread_facts(modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    facts = [fact for one in declarations_in(modules) if isinstance(one, ast.FactsDecl) for fact in one.fields]
    if not facts:
        return
    read = facts_read(one for one in declarations_in(modules) if not isinstance(one, ast.FixtureDecl | ast.TestDecl))
    whole = frozenset(name for one in read for name in prefixes(one))
    for fact in facts:
        name = fact.name.text
        if name not in whole and not read.intersection(prefixes(name)):
            hint = "remove it: readers expect a policy to use the facts that it declares"
            yield Diagnostic("W262", f"no rule reads `{name}`", fact.name.span, hint)


def facts_read(declarations: Iterator[ast.Declaration]) -> frozenset[str]:
    """Return every name that the declarations mention, except the names that `facts` blocks declare."""
    found = set[str]()
    for declaration in declarations:
        found.update(
            names_in(declaration.place) if isinstance(declaration, ast.FactsDecl) and declaration.place else ()
        )
        found.update(names_in(declaration) if not isinstance(declaration, ast.FactsDecl) else ())
    return frozenset(found.difference(FACT_ROOTS))  # an approval bound to the whole `body` reads no fact of it


def unused_anchors(kernel: k.Kernel, modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    """Yield a W263 for each unused issuer or attester. Exported ones are for other packages. If users have grants, or
    approve without `from`, every issuer may name users, so no issuer is unused.
    """
    asked = {name for agent in kernel.agents for one in agent.requirements for name in required_anchors(one)}
    confirms = [one for guard in kernel.guards for one in guard.effects if isinstance(one, k.Confirm)]
    asked |= {name for one in confirms for name in one.approvers.issuers}
    users_named = bool(kernel.users) or any(not one.approvers.issuers for one in confirms)
    # Exported issuers and attesters are left out.
    declarations = [one for module in modules for one in module.declarations]
    for declaration in declarations:
        if isinstance(declaration, ast.AttesterDecl) or (isinstance(declaration, ast.IssuerDecl) and not users_named):
            word = "issuer" if isinstance(declaration, ast.IssuerDecl) else "attester"
            if declaration.name.text not in asked and declaration.name.text not in texts_compared(kernel):
                verb = "issued" if word == "issuer" else "attested"
                hint = f"require it with `{verb} by {declaration.name.text}`, or remove it"
                yield Diagnostic(
                    "W263", f"no agent block requires the {word} `{declaration.name.text}`", declaration.name.span, hint
                )


def required_anchors(requirement: k.Requirement) -> tuple[str, ...]:
    match requirement:
        case k.IssuedBy(names) | k.AttestedBy(names):
            return names
        case _:
            return ()


def texts_compared(kernel: k.Kernel) -> frozenset[str]:
    """Return the texts with which conditions compare facts, as in `attestation.by == "lab"`."""
    conditions = [condition for block in all_blocks(kernel) for condition, _ in block_conditions(block)]
    conditions += [one.condition for guard in kernel.guards for one in guard.effects if one.condition is not None]
    conditions += [condition for _, condition, _ in conditions_of_limits(kernel)]
    constants = (one.value for condition in conditions for one in k.walk(condition) if isinstance(one, k.Constant))
    return frozenset(
        text
        for value in constants
        for text in (value if isinstance(value, tuple) else (value,))
        if isinstance(text, str)
    )
