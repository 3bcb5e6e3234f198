"""History in generated policies: every form of a condition occurs. `test_equality.py` decides sequences of requests."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.spec.required_history import history_conditions
from tests.evaluator.sources import setting_with_history


def test_generated_histories_are_of_every_form() -> None:
    met = set[str]()
    for seed in range(40):
        kernel = setting_with_history(seed).kernel
        for node in history_conditions((kernel.agents, kernel.users, kernel.guards)):
            met |= set(forms_of(node))
    forms = {"HistoryCondition", "count", "sum", "distinct", "since", "keys", "denied", "where", "status", "nobody's"}
    assert met == forms


def forms_of(node: k.HistoryCondition | k.Aggregate) -> Iterator[str]:
    event, read = node.event, list(k.walk(node.event.where)) if node.event.where is not None else []
    yield node.function if isinstance(node, k.Aggregate) else "HistoryCondition"
    yield from ["since"] if node.since is not None else []
    yield from ["nobody's" if event.keys == () else "keys"] if event.keys is not None else []
    yield from ["denied"] if event.denied else []
    yield from ["where"] if read else []
    yield from ["status"] if any(isinstance(one, k.PastFact) and one.fact not in event.facts for one in read) else []
