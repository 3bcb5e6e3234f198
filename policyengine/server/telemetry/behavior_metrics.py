"""Metrics of learned behavior, which exist only if the policies read learned facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from policyengine.behavior.fold import ALARM_FACTS
from policyengine.server.telemetry.behavior_counts import (
    AGE,
    ALARMS,
    CALLERS,
    CONDITIONS,
    DAMAGED,
    GROUPED,
    GROUPS,
    NUMBER,
    READY,
)
from policyengine.server.telemetry.shared_counters import CounterKey

FAMILIES = (
    (CALLERS, "policyengine_behavior_callers", "Callers whose behavior is known, by class."),
    (READY, "policyengine_behavior_ready_callers", "Callers that were ready when the model was learned, by class."),
)
SINGLE = (
    (DAMAGED, "policyengine_behavior_damaged_callers", "Damaged callers in the store, whose facts are unknown."),
    (AGE, "policyengine_behavior_model_age_seconds", "Time since the current model was learned."),
    (GROUPS, "policyengine_behavior_groups", "Groups of callers that move as one and share limits."),
    (GROUPED, "policyengine_behavior_grouped_callers", "Callers in such groups."),
    (NUMBER, "policyengine_behavior_model_number", "Number of the current model; 0 before the first one."),
)


def behavior_metrics(total: Mapping[CounterKey, Sequence[int]]) -> Iterator[Metric]:
    if (NUMBER,) not in total:
        return
    alarms = CounterMetricFamily("policyengine_behavior_alarms", "Alarms of ready callers, by fact.", labels=("fact",))
    for fact in ALARM_FACTS:
        alarms.add_metric([fact], total.get((ALARMS, fact), (0,))[0])
    yield alarms
    conditions = CounterMetricFamily(
        "policyengine_behavior_conditions",
        "Requests that a condition on learned facts would have hit in observe mode.",
        labels=("rule", "condition", "result"),
    )
    for (kind, *labels), cells in total.items():
        if kind == CONDITIONS:
            conditions.add_metric(labels, cells[0])
    if conditions.samples:
        yield conditions
    for wanted, name, doc in FAMILIES:
        family = GaugeMetricFamily(name, doc, labels=("class",))
        for (kind, *labels), cells in total.items():
            if kind == wanted:
                family.add_metric(labels, cells[0])
        if family.samples:
            yield family
    for kind, name, doc in SINGLE:
        if (kind,) in total:
            yield GaugeMetricFamily(name, doc, total[kind,][0])
