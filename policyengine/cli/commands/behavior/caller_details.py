"""The details of a caller, its class and the planned changes, as `behavior show` prints them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from policyengine.cli.commands.behavior.learn import ClassSummary
from policyengine.cli.options.behavior import LearningPolicies, describe_caller, warn_of_profiles
from policyengine.cli.output.terminal import Screen
from policyengine.plurals import pluralize
from policyengine.time_formats import format_epoch_seconds, format_rfc3339

if TYPE_CHECKING:
    from policyengine.behavior.events import Caller
    from policyengine.behavior.fold import ProfileSettings
    from policyengine.behavior.groups import CallerGroup
    from policyengine.behavior.model import BehaviorModel, ClassModel
    from policyengine.behavior.releases import ClassRelease
    from policyengine.behavior.row import BehaviorRow
    from policyengine.behavior.state import BehaviorState

NO_CLASS_TEXT = "none: no profile and no agent block of the policies names this caller"
UNSAVED_CLASS = "unknown: the store has it after the first 16 requests"
BARS = " ▁▂▃▄▅▆▇█"
MILLION = 1_000_000
MARGIN_UNIT = 1_024
LEAST_LIMIT, MAX_LIMIT = 9 / 8, 8
DAY_SECONDS = 86_400
MAX_SHOWN_GROUPS = 20


def show_releases(screen: Screen, releases: Sequence[ClassRelease]) -> None:
    for release in releases:
        screen.line(f"planned change of {release.group} until {format_milliseconds(release.until)}")


def release_dict(release: ClassRelease) -> dict[str, str]:
    return {"class": release.group, "until": format_milliseconds(release.until)}


def format_milliseconds(at: int) -> str:
    return format_epoch_seconds(at // 1_000)


def format_day(day: int) -> str:
    return format_rfc3339(datetime.fromtimestamp(day * DAY_SECONDS, UTC))[:10]


def describe_model(model: BehaviorModel) -> dict[str, Any]:
    """Return the digest, the number and the time of a model as JSON; before the first model, the time is null."""
    serial, made = model.content.serial, model.content.made
    return {
        "model": model.digest, "model_number": serial, "model_learned": format_milliseconds(made) if serial else None,
    }  # fmt: skip


# ── Groups ────────────────────────────────────────────────────────────────────────────────────


def describe_group(group: CallerGroup) -> dict[str, Any]:
    """Return a group as JSON."""
    return {
        "id": group.id, "callers": group.size, "since": format_milliseconds(group.since),
        "last_found": format_day(max(member.seen for member in group.members)),
    }  # fmt: skip


def group_of(state: BehaviorState, caller: Caller) -> dict[str, Any] | None:
    """Return the group of a caller as JSON; None if it is in no group."""
    group = state.model.group_of(state.members.of(caller.issuer, caller.agent))
    return None if group is None else describe_group(group)


def show_groups(screen: Screen, model: BehaviorModel) -> None:
    """Print the groups of callers that share limits, the largest first."""
    groups = sorted(model.content.groups, key=lambda one: (-one.size, one.id))
    for group in map(describe_group, groups[:MAX_SHOWN_GROUPS]):
        screen.line(f"group {group['id']}: {group_words(group)}")
    if len(groups) > MAX_SHOWN_GROUPS:
        screen.line(f"and {pluralize(len(groups) - MAX_SHOWN_GROUPS, 'more group')}")


def group_words(found: Mapping[str, Any]) -> str:
    count, last = pluralize(found["callers"], "caller"), found["last_found"]
    return f"{count} that have moved as one since {found['since']}, last found on {last}"


# ── What is known ─────────────────────────────────────────────────────────────────────────────


def describe_row(
    state: BehaviorState, caller: Caller, settings_of: Any, endpoints: Mapping[int, str] | None
) -> dict[str, Any]:
    """Return what is known about a caller as JSON; if `endpoints` is None, without its habits and its class."""
    from policyengine.behavior.fold import is_ready

    known = state.rows[caller]
    row, settings = known.row, settings_of(known.group)
    model = state.model.class_of((caller.issuer, known.group))
    found = {
        "agent": caller.agent, "issuer": caller.issuer, "instance": caller.instance, "version": caller.version,
        "class": known.group, "group": group_of(state, caller),
        "ready": model.is_ready and is_ready(row, settings), "runs": row.runs,
        "active_days": active_days(row, settings), "trust": row.trust / MILLION, "novelty": row.novelty / MILLION,
        "error_rate": row.errors / MILLION, "last_seen": format_milliseconds(row.level_at),
    }  # fmt: skip
    if endpoints is None:
        return found
    return {
        **found, "order": describe_order(row, settings), **describe_habits(row, settings, endpoints),
        "class_model": describe_class(state, caller),
    }  # fmt: skip


def describe_order(row: BehaviorRow, settings: ProfileSettings) -> dict[str, Any] | None:
    """Return where the latest run is in the declared order of calls; None without an order or a run."""
    from policyengine.kernel.sequence_automaton import LEFT

    automaton = settings.automaton
    if automaton is None or not row.run_length or row.step_machine != automaton.digest:
        return None
    return {
        "follows": row.step_state != LEFT, "state": row.step_state, "last_call": format_milliseconds(row.run_last),
        "latest": automaton.latest(row.step_state), "expected": automaton.expected(row.step_state),
    }  # fmt: skip


def active_days(row: BehaviorRow, settings: ProfileSettings) -> int:
    return (row.days & ((1 << settings.learn_days) - 1)).bit_count()


def describe_habits(row: BehaviorRow, settings: ProfileSettings, endpoints: Mapping[int, str]) -> dict[str, Any]:
    """Return the pace, the levels and the endpoints of a row, the number of structures of payloads, and what its caller
    needs to be ready, as JSON.
    """
    from policyengine.behavior.fold import set_limits
    from policyengine.behavior.row import SCORE_BUCKETS, SCORE_LENGTHS

    row = row.copy()
    set_limits(row, settings)
    seen = sorted(row.seen.items(), key=lambda one: (-one[1], one[0]))
    return {
        "events": row.serial,
        "pace": [pace / 16 for pace in row.paces],
        "levels": {"slow": row.top_slow / 16, "fast": row.top_fast / 16},
        "ceilings": {"slow": row.ceiling_slow / 16, "fast": row.ceiling_fast / 16},
        "bases": {"slow": row.base_slow / 16, "fast": row.base_fast / 16},
        "needs": {"runs": settings.ready_runs, "days": settings.ready_days, "of_days": settings.learn_days},
        "endpoints": [
            {"tag": f"{tag:08x}", "endpoint": endpoints.get(tag), "last_used": format_day(day)} for tag, day in seen
        ],
        "shapes": len(row.shapes),
        "sequences": sum(map(bool, row.gram_counts)),
        "scored_runs": sum(row.scores[: SCORE_LENGTHS * SCORE_BUCKETS]),
    }


def highest_deviations(model: ClassModel) -> tuple[float, float]:
    """Return the highest deviations that short runs and longer runs of a class can have; they rise with the number of
    scored runs."""
    return model.deviations.highest(0) / 1_000, model.deviations.highest(1) / 1_000


def describe_class(state: BehaviorState, caller: Caller) -> dict[str, Any]:
    model = state.model.class_of((caller.issuer, state.rows[caller].group))
    return {
        "ready": model.is_ready, "runs": model.runs, "callers": model.callers, "endpoints": len(model.seen),
        "shapes": model.shape_count, "free_form_endpoints": len(model.free_form),
        "margins": {"slow": model.margin_slow / MARGIN_UNIT, "fast": model.margin_fast / MARGIN_UNIT}
        if model.has_margins else None,
        "caller_days": model.days, "calibrated": model.declared, "sequences": len(model.grams.counts),
        "highest_deviations": dict(zip(("short_runs", "long_runs"), highest_deviations(model), strict=True)),
    }  # fmt: skip


# ── Text ──────────────────────────────────────────────────────────────────────────────────────


def show_details(
    screen: Screen,
    details: Sequence[Mapping[str, Any]],
    callers: Sequence[Caller],
    known: LearningPolicies,
    show_class_of: Callable[[tuple[str, str]], None],
) -> None:
    warn_of_profiles(known.engine, (one["class"] or "" for one in details))
    for caller, found in zip(callers, details, strict=True):
        screen.line((describe_caller(caller), "bold"))
        screen.table([[f"  {name}", text] for name, text in facts_of(found)], whole=True)
        show_pace(screen, found["pace"])
        show_endpoints(screen, found["endpoints"])
        show_class_of((caller.issuer, found["class"] or ""))


def facts_of(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the facts of a caller in words."""
    needs, model = found["needs"], found["class_model"]
    yield "class", found["class"] or (UNSAVED_CLASS if found["class"] is None else NO_CLASS_TEXT)
    yield (
        "ready",
        "yes"
        if found["ready"]
        else f"no, its class is not ready: {class_needs(model)}"
        if enough(found)
        else f"no, the caller needs {needs['runs']} runs and {needs['days']} active days",
    )
    if found["group"] is not None:
        yield "group", f"{found['group']['id']}, {group_words(found['group'])}"
    yield "runs", f"{found['runs']:,} complete runs"
    yield "active days", f"{found['active_days']} of the last {needs['of_days']}"
    yield "events", f"{found['events']:,} requests and reports of failures; last seen {found['last_seen']}"
    if found["order"] is not None:
        yield "order", order_words(found["order"])
    yield "trust", f"{found['trust']:.3f}"
    yield "novelty", f"{found['novelty']:.3f}"
    yield "error rate", f"{found['error_rate']:.3f}"
    if found["shapes"]:
        yield "payloads", pluralize(found["shapes"], "structure")
    if found["sequences"]:
        runs = pluralize(found["scored_runs"], "scored run")
        yield "sequences", f"{found['sequences']:,} of up to three endpoints; {runs}"
    for name, fall in (("slow", "twice"), ("fast", "ten times")):
        level, ceiling = found["levels"][name], found["ceilings"][name]
        margin = model["margins"][name] if model["margins"] else None
        limit = "no margin is known yet"
        if margin:
            usual = min(max(found["bases"][name] * margin, ceiling * LEAST_LIMIT), ceiling * MAX_LIMIT)
            limit = f"a burst above {usual:.1f}"
        text = f"at most {level:.1f} on its last day, {ceiling:.1f} on the days before; {limit}"
        yield f"{name} level", f"{text} (falls at {fall} the caller's pace)"


def order_words(order: Mapping[str, Any]) -> str:
    """Describe the place of a run in the declared order of calls."""
    if not order["follows"]:
        return f"its latest run left the order of calls; last call {order['last_call']}"
    latest = " or ".join(order["latest"]) or "the start"
    expected = " or ".join(order["expected"]) or "no call"
    return f"its latest run is after {latest} (last call {order['last_call']}), and {expected} may follow"


def enough(found: Mapping[str, Any]) -> bool:
    """Return whether the caller has the runs and active days of its own that it needs to be ready."""
    return bool(found["runs"] >= found["needs"]["runs"] and found["active_days"] >= found["needs"]["days"])


def class_needs(model: Mapping[str, Any]) -> str:
    from policyengine.behavior.model import READY_CALLERS, READY_RUNS

    return f"{model['runs']:,} of {READY_RUNS} runs, {model['callers']:,} of {READY_CALLERS} callers"


def class_state(model: ClassModel) -> str:
    from policyengine.behavior.model import READY_CALLERS, READY_RUNS

    needs = f"it needs {READY_RUNS} runs, of at least {READY_CALLERS} agents that have enough runs and days themselves"
    return "ready" if model.is_ready else f"not ready ({needs})"


def show_pace(screen: Screen, pace: Sequence[float]) -> None:
    most = max(pace)
    screen.line(f"  requests an hour, at most {most:.1f}, by hour of the day (UTC)")
    if most:
        bars = [BARS[-(-int(each * 16) * (len(BARS) - 1) // int(most * 16))] * 2 for each in pace]
        screen.line("    " + "".join(bars).rstrip())
        screen.line("    " + "".join(f"{hour:<12}" for hour in range(0, 24, 6)).rstrip())


def show_endpoints(screen: Screen, endpoints: Sequence[Mapping[str, Any]]) -> None:
    unnamed = sum(one["endpoint"] is None for one in endpoints)
    hint = "; a tag stands for a name that is not stored" if unnamed else ""
    screen.line(f"  {pluralize(len(endpoints), 'endpoint')}, by their last use{hint}")
    if endpoints:
        screen.table([["   ", one["last_used"], one["endpoint"] or f"tag {one['tag']}"] for one in endpoints])


def show_class(screen: Screen, found: ClassSummary) -> None:
    model = found.model
    screen.line(
        f"  its class has {pluralize(found.callers, 'caller')}, {found.ready:,} of them ready, "
        f"and is {class_state(model)}: {pluralize(model.runs, 'run')}, {pluralize(len(model.seen), 'endpoint')}"
    )
    if model.shapes or model.free_form:
        free = f"; {pluralize(len(model.free_form), 'endpoint')} with free-form payloads" if model.free_form else ""
        screen.line(f"  its class sends {pluralize(model.shape_count, 'structure')} of payloads{free}")
    if model.grams.counts:
        short, long = highest_deviations(model)
        screen.line(
            f"  its class has {pluralize(len(model.grams.counts), 'sequence')} of endpoints; deviations are at most "
            f"{short:.3f}, and {long:.3f} in runs of more than eight requests"
        )
    screen.line(f"  margins {found.margins}; burst {found.burst}")
