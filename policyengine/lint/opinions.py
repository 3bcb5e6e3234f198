"""What `policyengine lint` tells and `check` does not: policies that say what they mean, and could be safer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.lint.dead_rules import as_written
from policyengine.lint.rules.absences import unseen_absences
from policyengine.lint.rules.caller_texts import any_scheme, parent_folders
from policyengine.lint.rules.confusable_names import look_alikes
from policyengine.lint.rules.credentials import long_lived, static_keys
from policyengine.lint.rules.defaults import defaults_that_decide
from policyengine.lint.rules.delegation import no_depth, open_delegations
from policyengine.lint.rules.guard_messages import blind_confirms, open_confirms, without_message
from policyengine.lint.rules.guarded_places import narrower_guards
from policyengine.lint.rules.letter_case import looking_at_case
from policyengine.lint.rules.limits import chosen_keys, open_failures
from policyengine.lint.rules.secrets import pasted_secrets
from policyengine.lint.rules.shared_agents import agents_of_two_issuers
from policyengine.lint.rules.test_gaps import repeated, untested
from policyengine.lint.rules.unused_facts import unread_facts, unused_anchors
from policyengine.lint.rules.user_grants import doors_of_any_issuer
from policyengine.lint.rules.wide_grants import any_agent, no_user_door, uncarried_scopes, wide_grants
from policyengine.syntax import nodes as ast
from policyengine.testcases import Case

Cases = Sequence[Case]


def opinions(
    kernel: k.Kernel, modules: Sequence[ast.Module], cases: Cases, optional: Collection[str] = ()
) -> Iterator[Diagnostic]:
    """`optional` are the codes of optional rules that are asked for."""
    in_order = as_written(kernel)
    for about_meaning in ON_THE_KERNEL:
        yield from about_meaning(in_order)
    for about_text in ON_MODULES:
        yield from about_text(modules)
    yield from unused_anchors(in_order, modules)
    yield from repeated(cases, modules, counting=bool(in_order.limits or in_order.watches))
    if "W653" in optional:
        yield from untested(in_order, cases)


ON_THE_KERNEL: tuple[Callable[[k.Kernel], Iterator[Diagnostic]], ...] = (
    long_lived,
    static_keys,
    wide_grants,
    no_user_door,
    no_depth,
    open_delegations,
    without_message,
    open_confirms,
    blind_confirms,
    defaults_that_decide,
    unseen_absences,
    chosen_keys,
    open_failures,
    looking_at_case,
    any_agent,
    doors_of_any_issuer,
    agents_of_two_issuers,
    parent_folders,
    any_scheme,
    narrower_guards,
)
ON_MODULES: tuple[Callable[[Sequence[ast.Module]], Iterator[Diagnostic]], ...] = (
    uncarried_scopes,
    unread_facts,
    look_alikes,
    pasted_secrets,
)
