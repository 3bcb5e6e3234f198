"""Doors wider than a reviewer sees, and doors that stay shut although nothing says so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from policyengine.diagnostics import Diagnostic
from policyengine.semantics import kernel as k
from policyengine.semantics.coverage import PatternIndex
from policyengine.semantics.lints.findings import declared
from policyengine.semantics.logic import blocks
from policyengine.source import Span
from policyengine.syntax import nodes as ast

TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # what OAuth lets a scope consist of


def wide_grants(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Once for each pattern that is written, however many blocks grant it."""
    told = set[Span]()
    for block in blocks(kernel):
        for pattern in (opening.pattern for grant in block.grants for opening in grant.openings):
            if is_wide(pattern) and pattern.span not in told:
                told.add(pattern.span)
                written = " ".join(pattern.span.text.split())
                message = f"`{block.label}` may use whatever `{written}` comes to cover one day"
                hint = "name the endpoints: one that is added later is then not open before anybody looked"
                yield Diagnostic("W458", message, pattern.span, hint)


def is_wide(pattern: k.Pattern) -> bool:
    match pattern:
        case k.HttpPattern(rest=rest):
            return rest
        case k.ToolPattern(glob):
            return not glob.strip("*/")
        case _:
            return False


def no_user_door(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """An agent that acts for a user needs the user's door too, and no user block, nor `anyone`, opens it."""
    index = PatternIndex[bool]()
    openers = [grant for block in kernel.users for grant in block.grants]
    openers += [grant for block in kernel.anyones for grant in block.grants]
    for opening in (one for grant in openers for one in grant.openings):
        index.add(opening.pattern, True)
    for agent in kernel.agents:
        if agent.package in kernel.unrestricted or not any(isinstance(r, k.ActsFor) for r in agent.requirements):
            continue
        for grant in agent.grants:
            if not any(opened for one in grant.openings for opened in index.overlapping(one.pattern)):
                message = f"no user block opens any of this, so `{agent.label}` never gets through here"
                yield Diagnostic("W461", message, grant.span, "let a user block open it, too, or remove it")


def uncarried_scopes(modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    for scope in declared(modules):
        alias = scope.alias if isinstance(scope, ast.ScopeDecl) else None
        if alias is not None and not TOKEN.fullmatch(alias.value):
            message = f"no OAuth token can carry the scope `{alias.value}`"
            hint = 'use printable ASCII without spaces, `"` and `\\`, as in `read:invoices`'
            yield Diagnostic("W352", message, alias.span, hint)
