"""Faults that somebody could make in the walker or its builder: each is one small change to one function.

`FAULTS` gives for each the seed of the first generated policy that the comparison needs to find it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from policyengine.compiler import build_program
from policyengine.evaluator import (
    approvals,
    charges,
    decide,
    entity_nodes,
    fact_reader,
    history_nodes,
    nodes,
    program,
    relation_nodes,
    verdicts,
    walker,
)
from policyengine.evaluator.state import MAYBE, NO, YES
from policyengine.runtime.values import Unknown

Patch: TypeAlias = pytest.MonkeyPatch
Part: TypeAlias = Any  # the fault's own function stands in for a method, whatever its signature


def nothing(*_: object, **__: object) -> None:
    """Do nothing, in place of a gate."""


# ── In nodes ──────────────────────────────────────────────────────────────────────────────────


def a_limit_itself_is_too_much(patch: Patch) -> None:
    test = nodes.OrderTest.test
    patch.setattr(nodes.OrderTest, "test", lambda self, st: NO if self.node.get(st) == self.value else test(self, st))


def an_unknown_part_of_a_conjunction_counts_as_true(patch: Patch) -> None:
    test = nodes.All.test
    patch.setattr(nodes.All, "test", lambda self, st: YES if test(self, st) == MAYBE else test(self, st))


def a_settled_disjunction_leaves_its_doubts(patch: Patch) -> None:
    def test(self: Part, st: Part) -> int:
        results = [item.test(st) for item in self.items]
        return YES if YES in results else MAYBE if MAYBE in results else NO

    patch.setattr(nodes.AnyOf, "test", test)


def an_unknown_element_is_skipped(patch: Patch) -> None:
    test = nodes.QuantifierTest.test

    def known(self: Part, st: Part) -> int:
        domain, items = self.domain, self.domain.get(st)
        if type(items) is Unknown:
            return test(self, st)
        self.domain = nodes.Const(tuple(item for item in items if type(item) is not Unknown))
        found = test(self, st)
        self.domain = domain
        return found

    patch.setattr(nodes.QuantifierTest, "test", known)


def else_replaces_what_is_wrong_too(patch: Patch) -> None:
    def get(self: Part, st: Part) -> Any:
        value = self.operand.get(st)
        return self.fallback.get(st) if type(value) is Unknown else value

    patch.setattr(nodes.DefaultValue, "get", get)


def a_resource_may_be_absent(patch: Patch) -> None:
    patch.setattr(nodes, "never_absent", lambda value: value)


def two_patterns_that_disagree_bind_the_first(patch: Patch) -> None:
    patch.setattr(nodes.AgreedValue, "raw", lambda self, st: self.several[0].raw(st))


def an_attribute_is_kept_for_another_entity(patch: Patch) -> None:
    of = entity_nodes.EntityAttribute.of
    first: dict[object, Any] = {}
    patch.setattr(
        entity_nodes.EntityAttribute,
        "of",
        lambda self, st, entity: first.setdefault((id(self), entity.type), of(self, st, entity)),
    )


def a_missing_row_is_no_doubt_about_membership(patch: Patch) -> None:
    def among(st: Part, ancestor: Any, refs: Any, above: Any, item: Any, fact: str) -> bool:
        return ancestor in refs

    patch.setattr(entity_nodes, "among_ancestors", among)


def an_unknown_element_of_a_set_is_another_value(patch: Patch) -> None:
    patch.setattr(relation_nodes, "test_has", lambda st, items, wanted: YES if wanted in items else NO)


def a_window_has_no_beginning(patch: Patch) -> None:
    window = history_nodes.HistoryNode._window
    patch.setattr(
        history_nodes.HistoryNode,
        "_window",
        lambda self, st, event, history: (window(self, st, event, history)[0], list(history.events)),
    )


# ── At the doors ──────────────────────────────────────────────────────────────────────────────


def a_scope_is_not_asked_for(patch: Patch) -> None:
    patch.setattr(program, "carries", lambda st, carriers: True)


def groups_count_only_by_name(patch: Patch) -> None:
    patch.setattr(program.PrincipalRules, "_enter_groups", lambda self, st, carried: 0)


def a_subject_is_not_looked_at(patch: Patch) -> None:
    test = program.ActsForTest.test

    def of_a_hop(self: Part, st: Part) -> int:
        hop, st.hop = st.hop, st.hop or object()
        found = test(self, st)
        st.hop = hop
        return found

    patch.setattr(program.ActsForTest, "test", of_a_hop)


def a_block_stands_after_its_end(patch: Patch) -> None:
    patch.setattr(program.ValidityTest, "test", lambda self, st: YES)


def grants_read_other_spellings_of_a_path(patch: Patch) -> None:
    patch.setattr(decide, "exact_state", lambda st: st)


def an_expired_credential_keeps_its_issuer(patch: Patch) -> None:
    patch.setattr(fact_reader, "validity", lambda *_: True)


def an_issuer_speaks_for_every_user(patch: Patch) -> None:
    patch.setattr(fact_reader, "mask_user", nothing)


def claims_are_not_read(patch: Patch) -> None:
    patch.setattr(decide, "read_claims", nothing)


def the_user_needs_no_grant(patch: Patch) -> None:
    patch.setattr(walker, "pass_user", nothing)


def hops_need_no_grant(patch: Patch) -> None:
    patch.setattr(walker, "pass_hop", nothing)


def a_delegation_never_expires(patch: Patch) -> None:
    patch.setattr(program.DelegationGrant, "test", lambda self, st, then: self._names(st, then))


def a_delegation_has_no_limits(patch: Patch) -> None:
    patch.setattr(walker, "pass_limits", nothing)


def a_task_bounds_nothing(patch: Patch) -> None:
    patch.setattr(walker, "pass_task", nothing)


# ── In verdicts and effects ───────────────────────────────────────────────────────────────────


def an_answer_is_kept_whatever_the_guards_do(patch: Patch) -> None:
    key = verdicts.Verdict._key

    def without_bits(self: Part) -> Any:
        found = key(self)
        return None if found is None else (found[0], found[1])

    patch.setattr(verdicts.Verdict, "_key", without_bits)


def no_scope_helps(patch: Patch) -> None:
    patch.setattr(verdicts, "lacking_scopes", lambda st, block: [])


def no_proof_helps(patch: Patch) -> None:
    patch.setattr(verdicts.Verdict, "_proof_remedies", lambda self, effect: ())


def a_gateway_meets_every_obligation(patch: Patch) -> None:
    patch.setattr(verdicts.Verdict, "_unsupported", lambda self, duties: iter(()))


def an_unknown_key_is_counted_by(patch: Patch) -> None:
    read = charges.read_limit

    def known(st: Part, rule: Part) -> charges.LimitInputs:
        found = read(st, rule)
        found.unknown = ()
        return found

    patch.setattr(charges, "read_limit", known)


def a_charge_forgets_its_condition(patch: Patch) -> None:
    def read(st: Part) -> list[charges.LimitInputs]:
        return [charges.read_limit(st, rule) for rule in st.rules.limits]

    patch.setattr(verdicts, "read_limits", read)


def nothing_is_recorded(patch: Patch) -> None:
    patch.setattr(verdicts, "make_records", lambda st, denied: ())


def an_approval_is_bound_to_no_object(patch: Patch) -> None:
    binding = build_program.ProgramBuilder._binding

    def without_objects(self: Part, *given: Any) -> Any:
        found = binding(self, *given)
        found.objects = ()
        return found

    patch.setattr(build_program.ProgramBuilder, "_binding", without_objects)


def an_approval_is_bound_to_no_fact(patch: Patch) -> None:
    patch.setattr(approvals, "facts_read", lambda st, effect: {})


def an_unseen_object_can_be_approved(patch: Patch) -> None:
    patch.setattr(approvals, "is_seen", lambda raw: True)


def an_old_approval_counts(patch: Patch) -> None:
    patch.setattr(approvals, "is_fresh", lambda *_: True)


def everybody_may_approve(patch: Patch) -> None:
    patch.setattr(approvals, "may_approve", lambda *_: True)


# The seed of the first generated policy that finds the fault.
FAULTS: dict[Callable[[Patch], None], int] = {
    a_limit_itself_is_too_much: 23,
    an_unknown_part_of_a_conjunction_counts_as_true: 2,
    a_settled_disjunction_leaves_its_doubts: 2,
    else_replaces_what_is_wrong_too: 0,
    an_attribute_is_kept_for_another_entity: 0,
    a_missing_row_is_no_doubt_about_membership: 24,
    an_unknown_element_of_a_set_is_another_value: 47,
    a_scope_is_not_asked_for: 0,
    groups_count_only_by_name: 1,
    a_subject_is_not_looked_at: 35,
    a_block_stands_after_its_end: 1,
    an_expired_credential_keeps_its_issuer: 0,
    an_issuer_speaks_for_every_user: 0,
    the_user_needs_no_grant: 0,
    hops_need_no_grant: 0,
    a_delegation_has_no_limits: 4,
    a_task_bounds_nothing: 1,
    an_answer_is_kept_whatever_the_guards_do: 3,
    no_scope_helps: 0,
    a_gateway_meets_every_obligation: 45,
    an_unknown_key_is_counted_by: 3,
    a_charge_forgets_its_condition: 8,
    an_approval_is_bound_to_no_object: 0,
    an_approval_is_bound_to_no_fact: 0,
    an_unseen_object_can_be_approved: 0,
    everybody_may_approve: 0,
}
