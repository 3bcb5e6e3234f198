"""Lowering of profiles, and the check that no two of them apply to one agent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from policyengine import kernel as k
from policyengine.checker.lower.context import LoweringContext, block_head_span
from policyengine.checker.lower.delegation import lower_receiver
from policyengine.checker.lower.expressions import lower_value
from policyengine.checker.lower.guards import report_shared_names
from policyengine.checker.patterns.glob_index import GlobIndex
from policyengine.checker.patterns.overlap import globs_meet
from policyengine.checker.patterns.step_letters import order_automaton
from policyengine.checker.type_names import quote_source
from policyengine.checker.types.schema import EVERYWHERE
from policyengine.diagnostics.model import RelatedLocation
from policyengine.kernel.sequence_automaton import Order, OrderSizeError
from policyengine.plurals import pluralize
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.time_formats import parse_duration
from policyengine.typesystem import Scalar

DAY = timedelta(days=1)
# Roots of the facts that may separate runs and versions: a trusted party states these facts, or they are parts of the
# request as it was received.
KEY_ROOTS = ("request", "credential", "attestation", "task")
KEY_HINT = (
    "name a string of the credential, the attestation, the task or the request, such as `task.id` or "
    '`request.headers["x-run"]`'
)
ITEM_NAMES: dict[type[ast.Node], str] = {
    ast.ProfileSteps: "expect", ast.ProfileRun: "run", ast.ProfileLearn: "learn", ast.ProfileReady: "ready",
    ast.ProfileBurst: "burst", ast.ProfileVersion: "version",
}  # fmt: skip
AgentNames = k.ExactName | k.NamePattern | k.InGroup


@dataclass(frozen=True, slots=True)
class Bounds:
    """The minimum and the maximum period that an item of a profile may state."""

    least: timedelta
    most: timedelta
    text: str
    whole_days: bool = True

    def allows(self, period: timedelta) -> bool:
        return self.least <= period <= self.most and not (self.whole_days and period % DAY)


LEARN = Bounds(DAY, 28 * DAY, "from `1d` to `28d`")
READY_DAYS = Bounds(DAY, 28 * DAY, "from `1d` to `28d`")
BURST_DAYS = Bounds(DAY, 1_000 * DAY, "from `1d` to `1000d`")
RUN_IDLE = Bounds(timedelta(seconds=1), DAY, "from `1s` to `24h`", whole_days=False)
MAX_READY_RUNS = 1_000
RANGE_HINT = "write a duration in that range"


def lower_profiles(draft: LoweringContext) -> tuple[k.Profile, ...]:
    found = tuple(lower_profile(declared, package, draft) for package, declared in draft.declared(ast.ProfileDecl))
    declared_names = ((package, declared.name) for package, declared in draft.declared(ast.ProfileDecl))
    report_shared_names(declared_names, "profile", draft)
    report_shared_agents(found, draft)
    return found


def lower_profile(declared: ast.ProfileDecl, package: str, draft: LoweringContext) -> k.Profile:
    """Lower a profile. An item with an error has its default value: a kernel with errors is never used."""
    head = block_head_span(declared, declared.agent)
    check_items(declared, package, draft)
    found = k.Profile(declared.name.value, package, lower_receiver(declared.agent, draft), span=head)
    for item in declared.items:
        stated = lower_item(item, package, draft)
        found = replace(found, **{name: value for name, value in stated.items() if value is not None})
    ready = next((item for item in declared.items if isinstance(item, ast.ProfileReady)), None)
    if ready is None:
        return replace(found, ready_days=min(found.ready_days, found.learn.days))
    if found.ready_days > found.learn.days:
        message = (
            f"`ready` takes {pluralize(found.ready_days, 'day')}, but `learn` reaches back only {found.learn.days}"
        )
        draft.report("E911", message, ready.days.span, "write fewer days after `ready`, or a longer `learn`")
    return found


def check_items(declared: ast.ProfileDecl, package: str, draft: LoweringContext) -> None:
    if not declared.items:
        hint = "write at least one item: `run by task.id within 5m`, or `learn 14d`"
        draft.report("E911", "this profile is empty", declared.name.span, hint)
    named = [(f"`{ITEM_NAMES[type(item)]}`", item.span) for item in declared.items]
    draft.once(named, "E911", "keep one")


def lower_item(item: ast.ProfileItem, package: str, draft: LoweringContext) -> dict[str, Any]:
    """Return the members of the profile that an item states; None for a reported error."""
    match item:
        case ast.ProfileRun(key, idle):
            return {
                "run_key": lower_key(key, "run by", package, draft) if key else None,
                "run_idle": lower_period(idle, RUN_IDLE, "run … within", draft) if idle else None,
            }
        case ast.ProfileLearn(period):
            return {"learn": lower_period(period, LEARN, "learn", draft)}
        case ast.ProfileReady(runs, days):
            least = lower_period(days, READY_DAYS, "ready", draft)
            return {"ready_runs": lower_runs(runs, draft), "ready_days": None if least is None else least.days}
        case ast.ProfileBurst(days):
            seldom = lower_period(days, BURST_DAYS, "burst once in", draft)
            return {"burst_days": None if seldom is None else seldom.days}
        case ast.ProfileVersion(key):
            return {"version": lower_key(key, "version by", package, draft)}
        case ast.ProfileSteps(sequence):
            return {"order": lower_order(sequence, item.span, package, draft)}


def lower_order(sequence: ast.StepSequence, span: Span, package: str, draft: LoweringContext) -> Order | None:
    """Lower an order of calls; its automaton must be small. Return None if an error was reported."""
    found = lower_steps(sequence, package, draft)
    if found is not None:
        try:
            order_automaton(found)
        except OrderSizeError as error:
            hint = "write fewer steps, or steps that share no endpoints"
            draft.report("E915", f"the order of calls is too large: {error}", span, hint)
            return None
    return found


def lower_steps(sequence: ast.StepSequence, package: str, draft: LoweringContext) -> Order | None:
    found = [lower_step(step, package, draft) for step in sequence.steps]
    return None if None in found else tuple(step for step in found if step is not None)


def lower_step(
    step: ast.ProfileStep | ast.ProfileStepGroup, package: str, draft: LoweringContext
) -> k.CallStep | k.StepGroup | None:
    draft.once([(f"`{repeat.word}`", repeat.span) for repeat in step.repeats], "E911", "keep one")
    words = {repeat.word for repeat in step.repeats}
    optional, repeated = "optional" in words, "repeated" in words
    if isinstance(step, ast.ProfileStep):
        patterns = draft.places.target(step.target, package)
        if not patterns:
            return None
        unique = tuple(dict.fromkeys(patterns))
        return k.CallStep(unique, optional, repeated, span=step.span)
    parts = [lower_steps(alternative, package, draft) for alternative in step.alternatives]
    if None in parts:
        return None
    return k.StepGroup(tuple(part for part in parts if part is not None), optional, repeated, span=step.span)


def lower_period(written: ast.Literal, bounds: Bounds, words: str, draft: LoweringContext) -> timedelta | None:
    found = parse_duration(written.text)
    if found is None or not bounds.least <= found <= bounds.most:
        draft.report("E911", f"`{words}` takes a duration {bounds.text}", written.span, RANGE_HINT)
        return None
    if bounds.whole_days and found % DAY:
        message, hint = f"`{words}` takes whole days", f"write `{max(found.days, 1)}d`"
        draft.report("E911", message, written.span, hint)
        return None
    return found


def lower_runs(written: ast.Literal, draft: LoweringContext) -> int | None:
    digits = written.text.replace("_", "")
    if digits.isdigit() and len(digits) <= 9 and 1 <= int(digits) <= MAX_READY_RUNS:
        return int(digits)
    message = f"`ready` takes a whole number of runs from 1 to {MAX_READY_RUNS:,}".replace(",", "_")
    draft.report("E911", message, written.span, "write a number in that range: `20 runs`")
    return None


def lower_key(written: ast.Reference, words: str, package: str, draft: LoweringContext) -> k.Expr | None:
    """Lower the fact that separates runs or versions. Return None if an error was reported."""
    found = lower_value(written, draft.context(package, EVERYWHERE))
    if found is None:
        return None
    if not is_key(found):
        name = quote_source(written.span)
        message = (
            f"`{words}` takes a string of the credential, the attestation, the task or the request, but {name} is not "
            "one"
        )
        draft.report("E912", message, written.span, KEY_HINT)
        return None
    return found


def is_key(expression: k.Expr) -> bool:
    """Return whether the fact may separate runs and versions."""
    return isinstance(expression, k.Fact) and expression.path[0] in KEY_ROOTS and expression.type is Scalar.STRING


# ── Which profile applies ─────────────────────────────────────────────────────────────────────


def report_shared_agents(profiles: Sequence[k.Profile], draft: LoweringContext) -> None:
    """Report each profile that may apply to the same agent as an earlier profile of the same rank. An exact name
    precedes a pattern, and a pattern precedes a group.
    """
    names: dict[str, k.Profile] = {}
    globs: GlobIndex[k.Profile] = GlobIndex()
    groups: list[k.Profile] = []
    for profile in profiles:
        other = next(same_rank_profiles(profile.agents, names, globs, groups), None)
        if other is not None:
            message = f"the profile `{profile.name}` may apply to an agent of the profile `{other.name}`"
            related = [RelatedLocation("the other profile", other.span)]
            draft.report("E913", message, profile.span, overlap_hint(profile.agents), related)
        match profile.agents:
            case k.ExactName(name):
                names.setdefault(name, profile)
            case k.NamePattern(glob):
                globs.add(glob, profile)
            case k.InGroup():
                groups.append(profile)


def same_rank_profiles(
    agents: AgentNames, names: dict[str, k.Profile], globs: GlobIndex[k.Profile], groups: Sequence[k.Profile]
) -> Iterator[k.Profile]:
    match agents:
        case k.ExactName(name):
            yield from (names[name],) if name in names else ()
        case k.NamePattern(glob):
            yield from (other for known, other in globs.near(glob) if globs_meet(known, glob))
        case k.InGroup():
            yield from groups  # an agent may be in several groups


def overlap_hint(agents: AgentNames) -> str:
    if isinstance(agents, k.InGroup):
        return "an agent may be in both groups: keep one profile for groups, and name other agents"
    return "narrow one of them: an exact name precedes a pattern, and a pattern precedes a group"
