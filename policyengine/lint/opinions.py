"""The rules that only `policyengine lint` checks: the policy is valid, but could be safer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.lint.dead_rules import in_source_order
from policyengine.lint.rules.caller_chosen_defaults import defaults_that_decide
from policyengine.lint.rules.caller_texts import any_scheme, parent_folders
from policyengine.lint.rules.confusable_names import confusable_names
from policyengine.lint.rules.guard_messages import blind_confirms, open_confirms, without_message
from policyengine.lint.rules.lasting_credentials import long_lived, static_keys
from policyengine.lint.rules.letter_case import case_sensitive_conditions
from policyengine.lint.rules.lost_reports import sums_of_lost_reports
from policyengine.lint.rules.narrow_guards import narrower_guards
from policyengine.lint.rules.secrets import pasted_secrets
from policyengine.lint.rules.shared_agents import agents_of_two_issuers
from policyengine.lint.rules.test_quality import repeated_requests, untested_endpoints
from policyengine.lint.rules.uncounted_requests import uncounted_requests
from policyengine.lint.rules.unlimited_delegation import no_depth, open_delegations
from policyengine.lint.rules.unseen_absences import unseen_absences
from policyengine.lint.rules.unused_facts import unread_facts, unused_anchors
from policyengine.lint.rules.user_grants import grants_of_any_issuer
from policyengine.lint.rules.weak_limits import caller_chosen_keys, open_failures
from policyengine.lint.rules.wide_grants import (
    find_unrestricted_agents,
    missing_user_grants,
    uncarried_scopes,
    wide_grants,
)
from policyengine.syntax import nodes as ast
from policyengine.testcases import Case

Cases = Sequence[Case]


def opinions(
    kernel: k.Kernel, modules: Sequence[ast.Module], cases: Cases, optional: Collection[str] = ()
) -> Iterator[Diagnostic]:
    """Yield the findings of all lint rules. `optional` holds the codes of optional rules to run."""
    in_order = in_source_order(kernel)
    for about_meaning in KERNEL_RULES:
        yield from about_meaning(in_order)
    for about_text in MODULE_RULES:
        yield from about_text(modules)
    yield from unused_anchors(in_order, modules)
    yield from repeated_requests(cases, modules, counting=bool(in_order.limits or in_order.watches))
    if "W653" in optional:
        yield from untested_endpoints(in_order, cases)


KERNEL_RULES: tuple[Callable[[k.Kernel], Iterator[Diagnostic]], ...] = (
    long_lived,
    static_keys,
    wide_grants,
    missing_user_grants,
    no_depth,
    open_delegations,
    without_message,
    open_confirms,
    blind_confirms,
    defaults_that_decide,
    unseen_absences,
    caller_chosen_keys,
    open_failures,
    uncounted_requests,
    case_sensitive_conditions,
    find_unrestricted_agents,
    grants_of_any_issuer,
    agents_of_two_issuers,
    parent_folders,
    any_scheme,
    narrower_guards,
    sums_of_lost_reports,
)
MODULE_RULES: tuple[Callable[[Sequence[ast.Module]], Iterator[Diagnostic]], ...] = (
    uncarried_scopes,
    unread_facts,
    confusable_names,
    pasted_secrets,
)
