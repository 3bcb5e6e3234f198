"""Faults that a developer could make in the tree or the evaluator: each is one small change of one function. `FAULTS`
names what must find each of them. Its seeds are of policies that find their fault soon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pytest

from policyengine import kernel as k
from policyengine.compiler import branches, driver, emit, leaves, lines, quick, rules, tree, verdicts
from policyengine.engine import engine
from policyengine.evaluator import program, walker
from policyengine.runtime.decision import Outcome
from policyengine.spec.tasks import task_constraints

Patch: TypeAlias = pytest.MonkeyPatch
Part: TypeAlias = Any  # the function of the fault replaces a method, with any signature


# ── In the tree ───────────────────────────────────────────────────────────────────────────────


def a_place_forgets_its_exceptions(patch: Patch) -> None:
    def tree_of(kernel: k.Kernel) -> tree.Tree:
        found = tree.tree_of(kernel)
        return replace(found, uses=tuple(replace(one, excepts=()) for one in found.uses))

    patch.setattr(engine, "tree_of", tree_of)


def a_guard_without_a_place_is_left_out(patch: Patch) -> None:
    patch.setattr(engine, "tree_of", lambda kernel: replace(tree.tree_of(kernel), everywhere=()))


def globs_of_names_are_left_out(patch: Patch) -> None:
    def tree_of(kernel: k.Kernel) -> tree.Tree:
        found = tree.tree_of(kernel)
        return replace(found, agents=replace(found.agents, globs=()))

    patch.setattr(engine, "tree_of", tree_of)


# ── In the walk ───────────────────────────────────────────────────────────────────────────────


def a_literal_hides_the_wildcard_beside_it(patch: Patch) -> None:
    plain = branches.affixed
    patch.setattr(branches, "affixed", lambda branch, segment: () if segment is not None else plain(branch, segment))


def two_stars_need_one_more_segment(patch: Patch) -> None:
    made = branches.Paths._branch

    def branch(self: Part, places: Any, rests: Any, loose: Any) -> branches.Branch:
        found = made(self, places, rests, loose)
        found.rests = tuple(rests)
        return found

    patch.setattr(branches.Paths, "_branch", branch)


def a_guard_looks_at_case(patch: Patch) -> None:
    def tree_of(kernel: k.Kernel) -> tree.Tree:
        found = tree.tree_of(kernel)
        return replace(found, foldings=tuple("none" for _ in found.foldings))

    patch.setattr(engine, "tree_of", tree_of)


def a_door_does_not_look_at_case(patch: Patch) -> None:
    folding_for = branches.least_folding

    def found(segment: k.Segment, text: str) -> int | None:
        took = folding_for(segment, text)
        return None if took is None else 0

    patch.setattr(branches, "least_folding", found)


def guards_do_not_know_what_other_spellings_bind(patch: Patch) -> None:
    made = branches.Paths._sorted
    patch.setattr(branches.Paths, "_sorted", lambda self, places, name: (made(self, places, name)[0], []))


def a_method_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(branches.Paths, "_covers", lambda self, number, method: True)


# ── In the code that is written ───────────────────────────────────────────────────────────────


def a_strict_comparison_lets_the_limit_through(patch: Patch) -> None:
    compare = emit.Writer._compare
    lax = {"<": "<=", ">": ">="}

    def compared(self: Part, node: k.Relation) -> str:
        return compare(self, replace(node, operator=lax.get(node.operator, node.operator)))  # type: ignore[arg-type]

    patch.setattr(emit.Writer, "_compare", compared)


def an_unknown_fact_counts_as_it_stands(patch: Patch) -> None:
    patch.setattr(emit.Writer, "unless", lambda self, condition: None)


def else_stands_for_what_is_wrong_too(patch: Patch) -> None:
    """A fact of a wrong type is treated as absent."""
    maybe = emit.Writer._maybe

    def found(self: Part, node: k.Expr) -> Any:
        raw, checked = maybe(self, node)
        return (self.put(f"{raw} if type({raw}) is str else None"), checked) if checked is not None else (raw, checked)

    patch.setattr(emit.Writer, "_maybe", found)


def rules_of_one_shape_share_their_constants(patch: Patch) -> None:
    function = rules.Shapes.function
    first: dict[Any, Any] = {}

    def shared(self: Part, write: Any, setting: Any) -> Any:
        made = function(self, write, setting)
        return first.setdefault((id(self), made.__code__), made)

    patch.setattr(rules.Shapes, "function", shared)


def a_name_is_taken_for_a_type(patch: Patch) -> None:
    """`Scalar.IP` equals the text `ip`, and `context.ip` may be named before its type."""

    def word(self: Part, value: Any) -> Any:
        if value not in self._words:
            self._words[value] = self.constant(value)
        return self._words[value]

    patch.setattr(lines.Lines, "word", word)


def a_scope_is_not_asked_for(patch: Patch) -> None:
    patch.setattr(rules.DoorWriter, "carries", lambda self, *given: "True")


def a_block_stands_after_its_end(patch: Patch) -> None:
    holds = rules.DoorWriter.holds

    def forever(self: Part, requirement: k.Requirement) -> str:
        return holds(self, replace(requirement, end=None) if isinstance(requirement, k.ValidityPeriod) else requirement)

    patch.setattr(rules.DoorWriter, "holds", forever)


# ── In what follows from the walk ─────────────────────────────────────────────────────────────


def the_person_served_needs_no_door(patch: Patch) -> None:
    patch.setattr(driver.Driver, "served", lambda self, asked: self.add("served = True"))


def a_denied_request_bears_every_obligation(patch: Patch) -> None:
    plain = verdicts.obligations
    patch.setattr(verdicts, "obligations", lambda acts, outcome: plain(acts, Outcome.ALLOW))


def an_answer_is_kept_whatever_the_guards_do(patch: Patch) -> None:
    at = verdicts.Verdicts.at
    patch.setattr(verdicts.Verdicts, "at", lambda self, leaf, doors, acting: at(self, leaf, doors, 0))


def a_name_in_another_case_is_absent(patch: Patch) -> None:
    patch.setitem(emit.NAMESPACE, "absent", lambda members, *steps: True)


def an_override_of_the_method_passes(patch: Patch) -> None:
    patch.setattr(quick, "tame", lambda members: True)


def a_task_bounds_nothing(patch: Patch) -> None:
    patch.setattr(driver, "TASK", "")


def a_task_bounds_what_is_open_to_anyone(patch: Patch) -> None:
    patch.setattr(driver, "TASK", driver.TASK.replace(" or (outside and leaf.anyone is not None)", ""))


def a_task_bounds_where_it_is_left_to_guards(patch: Patch) -> None:
    patch.setattr(driver, "TASK_IN_DOUBT", driver.TASK)


def a_tool_of_a_task_is_looked_up_by_its_name_alone(patch: Patch) -> None:
    patch.setattr(
        leaves,
        "task_constraints",
        lambda *given: [replace(one, inside=by_name(one.inside)) for one in task_constraints(*given)],
    )


def by_name(inside: k.Expr) -> k.Expr:
    return inside.items[1].items[0] if isinstance(inside, k.Or) else inside  # type: ignore[union-attr]  # as it is made


def an_issuer_speaks_for_everybody(patch: Patch) -> None:
    patch.setattr(quick, "speaks_for", lambda issuer, user: True)


# ── In the walker ─────────────────────────────────────────────────────────────────────────────


def hops_need_no_grant(patch: Patch) -> None:
    patch.setattr(walker, "pass_hop", lambda st, hop, then, found: None)


def groups_count_only_by_name(patch: Patch) -> None:
    patch.setattr(program.PrincipalRules, "_enter_groups", lambda self, st, carried: 0)


@dataclass(frozen=True, slots=True)
class Found:
    """What must find a fault: questions to generated policies from this seed on, and Cedar if it can."""

    seed: int
    by_cedar: bool = False


FAULTS: dict[Callable[[Patch], None], Found] = {
    a_place_forgets_its_exceptions: Found(101),
    a_guard_without_a_place_is_left_out: Found(115, by_cedar=True),
    globs_of_names_are_left_out: Found(4, by_cedar=True),
    a_literal_hides_the_wildcard_beside_it: Found(2003),
    two_stars_need_one_more_segment: Found(2000, by_cedar=True),
    a_guard_looks_at_case: Found(0),
    a_door_does_not_look_at_case: Found(0),
    guards_do_not_know_what_other_spellings_bind: Found(19),
    a_task_bounds_nothing: Found(5),
    a_task_bounds_what_is_open_to_anyone: Found(56),
    a_task_bounds_where_it_is_left_to_guards: Found(2),
    a_tool_of_a_task_is_looked_up_by_its_name_alone: Found(16),
    a_method_is_not_looked_at: Found(2002, by_cedar=True),
    a_strict_comparison_lets_the_limit_through: Found(137, by_cedar=True),
    an_unknown_fact_counts_as_it_stands: Found(2003),
    else_stands_for_what_is_wrong_too: Found(2069),
    rules_of_one_shape_share_their_constants: Found(2035),
    a_name_is_taken_for_a_type: Found(2005, by_cedar=True),
    a_scope_is_not_asked_for: Found(2007),
    a_block_stands_after_its_end: Found(2068),
    the_person_served_needs_no_door: Found(2004),
    a_denied_request_bears_every_obligation: Found(2043),
    an_answer_is_kept_whatever_the_guards_do: Found(2000, by_cedar=True),
    an_override_of_the_method_passes: Found(123),
    a_name_in_another_case_is_absent: Found(38),
    an_issuer_speaks_for_everybody: Found(36),
    hops_need_no_grant: Found(13),
    groups_count_only_by_name: Found(2001),
}
