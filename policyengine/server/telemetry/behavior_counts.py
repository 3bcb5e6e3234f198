"""Publishes what one worker knows about the behavior of callers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from policyengine.behavior.tracker import BehaviorTracker
from policyengine.server.telemetry.shared_counters import OTHER, ServerCounters

if TYPE_CHECKING:
    from policyengine.behavior.conditions import LearnedCondition
    from policyengine.engine import Engine
    from policyengine.engine.condition_watch import ConditionWatch

ALARMS, CALLERS, READY = "behavior_alarms", "behavior_callers", "behavior_ready"
DAMAGED = "behavior_damaged"
AGE, NUMBER = "behavior_model_age", "behavior_model_number"
GROUPS, GROUPED = "behavior_groups", "behavior_grouped"
CONDITIONS = "behavior_conditions"
MAX_CLASSES = 200  # maximum number of classes with a label of their own
MAX_CONDITIONS = 200  # maximum number of conditions with labels of their own
MAX_CONDITION_CHARACTERS = 120  # maximum length of the label of a condition
NO_CLASS_LABEL = "none"  # label of callers without a profile or an agent block


def publish_behavior(tally: ServerCounters, engine: Engine) -> None:
    """If the policies read learned facts, publish the number of alarms, of known callers (only if this process holds
    them), of damaged callers (only in a store) and of ready callers, and the number and age of the model. Once groups
    were searched, also publish the number of groups and of callers in them; in observe mode, also what conditions would
    have hit.
    """
    tracker = engine.behavior
    if tracker is None or not engine.kernel.reads_behavior:
        return
    if engine.conditions is not None:
        publish_conditions(tally, engine.conditions)
    for fact, count in list(tracker.counts.items()):
        tally.reached(ALARMS, fact, count=count, of=tracker)
    if isinstance(tracker, BehaviorTracker):  # with a store, a process knows only some of the callers
        tracker.census.advance(tracker.state.callers)
        publish_classes(tally, CALLERS, tracker.census.counts)
        model = tracker.state.model.content
    else:
        tally.now(DAMAGED, value=tracker.damaged.count)
        model = tracker.model.content
    ready: Counter[str] = Counter()
    for known in model.classes:
        ready[known.name] += known.callers if known.is_ready else 0
    publish_classes(tally, READY, ready)
    if model.grouped:
        tally.now(GROUPS, value=len(model.groups))
        tally.now(GROUPED, value=sum(group.size for group in model.groups))
    tally.now(NUMBER, value=model.serial)
    if model.serial:
        now = engine.decider.nanoseconds() // 1_000_000
        tally.now(AGE, value=max(now - model.made, 0) // 1_000)


def publish_conditions(tally: ServerCounters, conditions: ConditionWatch) -> None:
    """Publish the number of requests that each condition would have hit in observe mode, by whether the policies
    allowed them, and the number of requests for which the condition was unknown. Conditions with the same labels are
    counted together."""
    shown: Counter[tuple[str, str, str]] = Counter()
    for number, hits in enumerate(conditions.hits):
        labels = (OTHER, OTHER) if number >= MAX_CONDITIONS else condition_labels(hits.condition)
        shown[*labels, "allowed"] += hits.allowed
        shown[*labels, "stopped"] += hits.requests - hits.allowed
        shown[*labels, "unknown"] += hits.unknown
    for key, count in shown.items():
        tally.add(CONDITIONS, *key, by=0)  # a condition that hit nothing is shown, too
        tally.reached(CONDITIONS, *key, count=count, of=conditions.origin)


def condition_labels(condition: LearnedCondition) -> tuple[str, str]:
    words = condition.words
    is_long = len(words) > MAX_CONDITION_CHARACTERS
    return condition.name, words[: MAX_CONDITION_CHARACTERS - 1] + "…" if is_long else words


def publish_classes(tally: ServerCounters, key: str, counts: Mapping[str, int]) -> None:
    """Set the gauges of classes; gauges of classes that no longer exist become 0."""
    shown: Counter[str] = Counter()
    for name in sorted(counts):
        label = name or NO_CLASS_LABEL
        shown[label if label in shown or len(shown) < MAX_CLASSES else OTHER] += counts[name]
    for label in tally.labels(key):
        shown.setdefault(label, 0)
    for label, count in shown.items():
        tally.now(key, label, value=count)
