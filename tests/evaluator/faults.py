"""Faults that somebody could make in the tree, the builder, the walker or the engine: each is one small change to one
function.

`FAULTS` gives for each the source of questions that must find it, and the seed of the first policy that does; Cedar
must find some of them, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pytest
from msgspec import structs

from policyengine import kernel as k
from policyengine.compiler import branches, build_nodes, build_program, tree
from policyengine.engine import decider, engine
from policyengine.evaluator import (
    approvals,
    blocks,
    charges,
    conditions,
    decide,
    entity_nodes,
    fact_reader,
    history_nodes,
    is_compiled,
    nodes,
    principals,
    program,
    records,
    relation_nodes,
    requirements,
    verdicts,
    walker,
)
from policyengine.evaluator.state import MAYBE, NO, YES
from policyengine.runtime import fact_access, plain_request
from policyengine.runtime.values import ABSENT, Unknown

CALLS_DIRECTLY = "compiled functions call each other directly, so none can be replaced"
interpreted_only = pytest.mark.skipif(is_compiled(), reason=CALLS_DIRECTLY)
Patch: TypeAlias = pytest.MonkeyPatch
Part: TypeAlias = Any  # the fault's own function stands in for a method, whatever its signature


def nothing(*_: object, **__: object) -> None:
    """Do nothing, in place of a gate."""


# ── In the tree ───────────────────────────────────────────────────────────────────────────────


def change_tree(patch: Patch, change: Callable[[tree.Tree], tree.Tree]) -> None:
    patch.setattr(engine, "tree_of", lambda kernel: change(tree.tree_of(kernel)))


def a_place_forgets_its_exceptions(patch: Patch) -> None:
    change_tree(
        patch, lambda made: structs.replace(made, uses=tuple(structs.replace(one, excepts=()) for one in made.uses))
    )


def a_limit_forgets_its_exceptions(patch: Patch) -> None:
    change_tree(
        patch, lambda made: structs.replace(made, uses=tuple(structs.replace(one, spared=()) for one in made.uses))
    )


def a_guard_without_a_place_is_left_out(patch: Patch) -> None:
    change_tree(patch, lambda made: structs.replace(made, everywhere=()))


def globs_of_names_are_left_out(patch: Patch) -> None:
    change_tree(patch, lambda made: structs.replace(made, agents=structs.replace(made.agents, globs=())))


def a_guard_matches_only_the_same_case(patch: Patch) -> None:
    change_tree(patch, lambda made: structs.replace(made, foldings=tuple("none" for _ in made.foldings)))


# ── In the rules of an endpoint ───────────────────────────────────────────────────────────────


def a_literal_hides_the_wildcard_beside_it(patch: Patch) -> None:
    plain = branches.wildcard_places
    patch.setattr(
        branches, "wildcard_places", lambda branch, segment: () if segment is not None else plain(branch, segment)
    )


def two_stars_need_one_more_segment(patch: Patch) -> None:
    made = branches.Paths._branch

    def branch(self: Part, places: Any, rests: Any, loose: Any) -> program.PathBranch:
        found = made(self, places, rests, loose)
        found.rests = tuple(rests)
        return found

    patch.setattr(branches.Paths, "_branch", branch)


def a_grant_matches_any_case(patch: Patch) -> None:
    folding_for = branches.least_folding

    def found(segment: k.Segment, text: str) -> int | None:
        took = folding_for(segment, text)
        return None if took is None else 0

    patch.setattr(branches, "least_folding", found)


def guards_ignore_what_another_case_binds(patch: Patch) -> None:
    made = branches.Paths._patterns_at
    patch.setattr(branches.Paths, "_patterns_at", lambda self, places, name: (made(self, places, name)[0], []))


def a_method_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(branches.Paths, "_covers", lambda self, number, method: True)


def a_kept_branch_ignores_other_spellings(patch: Patch) -> None:
    patch.setattr(program, "fold_case", lambda text: text)


def facts_of_one_name_share_a_type(patch: Patch) -> None:
    slot = build_nodes.NodeBuilder.slot
    first: dict[Any, Any] = {}

    def found(self: Part, path: Any, type_: Any, *, given: bool = False) -> Any:
        return slot(self, path, first.setdefault((id(self), path), type_), given=given)

    patch.setattr(build_nodes.NodeBuilder, "slot", found)


def a_tool_of_a_task_is_looked_up_by_its_name_alone(patch: Patch) -> None:
    constraints = build_program.task_constraints

    def by_name(*given: Any) -> list[Any]:
        return [
            replace(one, inside=one.inside.items[1].items[0]) if isinstance(one.inside, k.Or) else one  # type: ignore[union-attr]
            for one in constraints(*given)
        ]

    patch.setattr(build_program, "task_constraints", by_name)


# ── In reading a question ─────────────────────────────────────────────────────────────────────


def an_override_of_the_method_is_not_noticed(patch: Patch) -> None:
    patch.setattr(plain_request, "may_override", lambda members: False)


def a_header_keeps_its_capitals(patch: Patch) -> None:
    patch.setattr(plain_request, "normalize_http_facts", lambda request: True)


def a_member_in_another_case_is_absent(patch: Patch) -> None:
    def fact_at(facts: Any, path: Any) -> object:
        found = fact_access.fact_at(facts, path)
        return ABSENT if found is fact_access.OTHER_CASE else found

    patch.setattr(nodes, "fact_at", fact_at)


# ── In nodes ──────────────────────────────────────────────────────────────────────────────────


def a_limit_itself_is_too_much(patch: Patch) -> None:
    test = conditions.OrderTest.test
    patch.setattr(
        conditions.OrderTest, "test", lambda self, st: NO if self.node.get(st) == self.value else test(self, st)
    )


def an_unknown_part_of_a_conjunction_counts_as_true(patch: Patch) -> None:
    test = conditions.All.test
    patch.setattr(conditions.All, "test", lambda self, st: YES if test(self, st) == MAYBE else test(self, st))


def a_settled_disjunction_leaves_its_doubts(patch: Patch) -> None:
    def test(self: Part, st: Part) -> int:
        results = [item.test(st) for item in self.items]
        return YES if YES in results else MAYBE if MAYBE in results else NO

    patch.setattr(conditions.AnyOf, "test", test)


def an_unknown_element_is_skipped(patch: Patch) -> None:
    test = conditions.QuantifierTest.test

    def known(self: Part, st: Part) -> int:
        domain, items = self.domain, self.domain.get(st)
        if type(items) is Unknown:
            return test(self, st)
        self.domain = nodes.Const(tuple(item for item in items if type(item) is not Unknown))
        found = test(self, st)
        self.domain = domain
        return found

    patch.setattr(conditions.QuantifierTest, "test", known)


def else_replaces_what_is_wrong_too(patch: Patch) -> None:
    def get(self: Part, st: Part) -> Any:
        value = self.operand.get(st)
        return self.fallback.get(st) if type(value) is Unknown else value

    patch.setattr(nodes.DefaultValue, "get", get)


def a_resource_may_be_absent(patch: Patch) -> None:
    patch.setattr(nodes, "never_absent", lambda value: value)


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
    bounds = history_nodes.HistoryNode._bounds

    def found(self: Part, st: Part, history: Part) -> tuple[int, Any]:
        start, asked = bounds(self, st, history)
        return start - 10**12, asked

    patch.setattr(history_nodes.HistoryNode, "_bounds", found)


# ── At the doors ──────────────────────────────────────────────────────────────────────────────


def a_scope_is_not_asked_for(patch: Patch) -> None:
    patch.setattr(blocks, "carries", lambda st, carriers: True)


def groups_count_only_by_name(patch: Patch) -> None:
    patch.setattr(principals.PrincipalRules, "_enter_groups", lambda self, st, carried: 0)


def a_subject_is_not_looked_at(patch: Patch) -> None:
    test = requirements.ActsForTest.test

    def of_a_hop(self: Part, st: Part) -> int:
        hop, st.hop = st.hop, st.hop or object()
        found = test(self, st)
        st.hop = hop
        return found

    patch.setattr(requirements.ActsForTest, "test", of_a_hop)


def a_block_stands_after_its_end(patch: Patch) -> None:
    patch.setattr(requirements.ValidityTest, "test", lambda self, st: YES)


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
    patch.setattr(blocks.DelegationGrant, "test", lambda self, st, then: self._names(st, then))


def a_delegation_has_no_limits(patch: Patch) -> None:
    patch.setattr(walker, "pass_limits", nothing)


def a_task_bounds_nothing(patch: Patch) -> None:
    patch.setattr(walker, "pass_task", nothing)


def a_task_bounds_what_is_open_to_anyone(patch: Patch) -> None:
    walk = walker.walk

    def walked(st: Part, exact: Part, approved: Part) -> Any:
        found = walk(st, exact, approved)
        if found.open_to_anyone and "task" in st.facts:
            walker.pass_task(st, exact, st.rules, found)
        return found

    patch.setattr(decide, "walk", walked)


def a_task_bounds_where_it_is_left_to_guards(patch: Patch) -> None:
    opening = walker.opening_packages
    patch.setattr(walker, "opening_packages", lambda st, side: [] if "task" in st.facts else opening(st, side))


def a_hop_has_the_claims_of_the_presenter(patch: Patch) -> None:
    enter = walker.enter_hop

    def entered(own: Part, hop: Part) -> None:
        enter(own, hop)
        own.claims = own.presenter.claims

    patch.setattr(walker, "enter_hop", entered)


def a_hop_keeps_what_the_hop_before_read(patch: Patch) -> None:
    enter = walker.enter_hop

    def entered(own: Part, hop: Part) -> None:
        values = own.values
        enter(own, hop)
        own.values = values

    patch.setattr(walker, "enter_hop", entered)


def only_the_first_hop_needs_a_grant(patch: Patch) -> None:
    pass_hop = walker.pass_hop

    def passed(own: Part, hop: Part, then: Part, found: Part) -> None:
        if hop is own.presenter.hops[0]:
            pass_hop(own, hop, then, found)

    patch.setattr(walker, "pass_hop", passed)


def a_refused_credential_still_names_its_agent(patch: Patch) -> None:
    principal_of = verdicts.principal_of
    patch.setattr(decide, "principal_of", lambda st, refused: principal_of(st, None))


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
    patch.setattr(verdicts.Verdict, "_unsupported", lambda self, duties: [])


def a_denied_request_has_every_obligation(patch: Patch) -> None:
    patch.setattr(verdicts, "OPERATOR_OBLIGATIONS", ("redact", "step_up", "header", "warn", "audit", "notify"))


def a_deny_charges_every_rate(patch: Patch) -> None:
    def charged(self: Part, outcome: Any) -> tuple[Any, ...]:
        return tuple(charge for one in self._limited() for charge in verdicts.limit_charges(one))

    patch.setattr(verdicts.Verdict, "_charges", charged)


def a_confirm_opens_nothing(patch: Patch) -> None:
    effects = verdicts.Verdict._approval_effects
    patch.setattr(verdicts.Verdict, "_approval_effects", lambda self, outcome: (effects(self, outcome)[0], ()))


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


def an_approver_of_any_issuer_may_approve(patch: Patch) -> None:
    patch.setattr(approvals, "is_vouched", lambda *_: True)


def an_approver_may_approve_twice(patch: Patch) -> None:
    find = approvals.find_approval

    def found(st: Part, effect: Part, spent: frozenset[str]) -> Any:
        made = find(st, effect, spent)
        if made.counted:
            made.granted = True
        return made

    patch.setattr(decide, "find_approval", found)


# ── In the evaluator and the engine ───────────────────────────────────────────────────────────


def a_spent_approval_counts_again(patch: Patch) -> None:
    finish = decide.finish
    patch.setattr(decide, "finish", lambda st, spent, stamp: finish(st, frozenset(), stamp))


def no_history_is_read(patch: Patch) -> None:
    patch.setattr(decide, "needed_windows", lambda st: frozenset())


def histories_of_grants_are_not_read(patch: Patch) -> None:
    patch.setattr(records, "add_principal", nothing)


def a_decision_commits_nothing(patch: Patch) -> None:
    resolve = decider.Decider._resolve

    def resolved(self: Part, *given: Any) -> Any:
        decision, _, members = resolve(self, *given)
        return decision, verdicts.NO_EFFECTS, members

    patch.setattr(decider.Decider, "_resolve", resolved)


def an_evaluation_commits(patch: Patch) -> None:
    patch.setattr(decider.Decider, "evaluate", decider.Decider.decide)


def a_chosen_time_is_ignored(patch: Patch) -> None:
    patch.setattr(decider.Decider, "_moment", lambda self, request: self.nanoseconds())


@dataclass(frozen=True, slots=True)
class Found:
    """What must find a fault: questions of this source to the policy of this seed, and Cedar if it can."""

    source: str
    seed: int
    by_cedar: bool = False


FAULTS: dict[Callable[[Patch], None], Found] = {
    a_place_forgets_its_exceptions: Found("anything", 0),
    a_limit_forgets_its_exceptions: Found("payments", 1),
    a_guard_without_a_place_is_left_out: Found("payments", 0, by_cedar=True),
    globs_of_names_are_left_out: Found("bindings", 1, by_cedar=True),
    a_guard_matches_only_the_same_case: Found("anything", 0),
    a_literal_hides_the_wildcard_beside_it: Found("bindings", 0),
    two_stars_need_one_more_segment: Found("anything", 0, by_cedar=True),
    a_grant_matches_any_case: Found("anything", 0),
    guards_ignore_what_another_case_binds: Found("bindings", 3),
    a_method_is_not_looked_at: Found("anything", 0, by_cedar=True),
    a_kept_branch_ignores_other_spellings: Found("bindings", 18),
    facts_of_one_name_share_a_type: Found("anything", 4),
    a_tool_of_a_task_is_looked_up_by_its_name_alone: Found("anything", 4),
    an_override_of_the_method_is_not_noticed: Found("anything", 0),
    a_header_keeps_its_capitals: Found("anything", 0),
    a_member_in_another_case_is_absent: Found("anything", 0),
    a_limit_itself_is_too_much: Found("credentials", 4, by_cedar=True),
    an_unknown_part_of_a_conjunction_counts_as_true: Found("chains", 0),
    a_settled_disjunction_leaves_its_doubts: Found("bindings", 0),
    an_unknown_element_is_skipped: Found("elements", 2),
    else_replaces_what_is_wrong_too: Found("anything", 0),
    a_resource_may_be_absent: Found("bindings", 3),
    an_attribute_is_kept_for_another_entity: Found("anything", 0, by_cedar=True),
    a_missing_row_is_no_doubt_about_membership: Found("chains", 0),
    an_unknown_element_of_a_set_is_another_value: Found("credentials", 0),
    a_window_has_no_beginning: Found("history", 2),
    a_scope_is_not_asked_for: Found("bindings", 0),
    groups_count_only_by_name: Found("anything", 1, by_cedar=True),
    a_subject_is_not_looked_at: Found("credentials", 0),
    a_block_stands_after_its_end: Found("anything", 1),
    grants_read_other_spellings_of_a_path: Found("bindings", 6),
    an_expired_credential_keeps_its_issuer: Found("anything", 0),
    an_issuer_speaks_for_every_user: Found("anything", 0),
    claims_are_not_read: Found("credentials", 0),
    the_user_needs_no_grant: Found("anything", 0),
    hops_need_no_grant: Found("anything", 0),
    a_delegation_never_expires: Found("chains", 0),
    a_delegation_has_no_limits: Found("bindings", 2),
    a_task_bounds_nothing: Found("bindings", 0),
    a_task_bounds_what_is_open_to_anyone: Found("history", 0),
    a_task_bounds_where_it_is_left_to_guards: Found("chains", 0),
    a_hop_has_the_claims_of_the_presenter: Found("credentials", 3),
    a_hop_keeps_what_the_hop_before_read: Found("credentials", 1),
    only_the_first_hop_needs_a_grant: Found("chains", 0),
    a_refused_credential_still_names_its_agent: Found("chains", 16),
    an_answer_is_kept_whatever_the_guards_do: Found("bindings", 0),
    no_scope_helps: Found("bindings", 0),
    no_proof_helps: Found("credentials", 2),
    a_gateway_meets_every_obligation: Found("credentials", 22),
    a_denied_request_has_every_obligation: Found("anything", 0),
    a_deny_charges_every_rate: Found("payments", 1),
    a_confirm_opens_nothing: Found("anything", 0),
    an_unknown_key_is_counted_by: Found("anything", 3),
    a_charge_forgets_its_condition: Found("anything", 8),
    nothing_is_recorded: Found("history", 1),
    an_approval_is_bound_to_no_object: Found("anything", 0),
    an_approval_is_bound_to_no_fact: Found("anything", 0),
    an_unseen_object_can_be_approved: Found("anything", 0),
    an_old_approval_counts: Found("payments", 0),
    everybody_may_approve: Found("anything", 0),
    an_approver_of_any_issuer_may_approve: Found("anything", 54),
    an_approver_may_approve_twice: Found("payments", 0),
    a_spent_approval_counts_again: Found("anything", 0),
    no_history_is_read: Found("history", 0),
    histories_of_grants_are_not_read: Found("history", 2),
    a_decision_commits_nothing: Found("anything", 0),
    an_evaluation_commits: Found("credentials", 0),
    a_chosen_time_is_ignored: Found("credentials", 0),
}
# Faults in modules that mypyc does not compile.
IN_PYTHON = frozenset(
    {
        a_place_forgets_its_exceptions, a_limit_forgets_its_exceptions, a_guard_without_a_place_is_left_out,
        globs_of_names_are_left_out, a_guard_matches_only_the_same_case, a_literal_hides_the_wildcard_beside_it,
        two_stars_need_one_more_segment, a_grant_matches_any_case, guards_ignore_what_another_case_binds,
        a_method_is_not_looked_at, facts_of_one_name_share_a_type, a_tool_of_a_task_is_looked_up_by_its_name_alone,
        an_approval_is_bound_to_no_object, a_decision_commits_nothing, an_evaluation_commits, a_chosen_time_is_ignored,
    }
)  # fmt: skip
