"""History in generated policies: every form of a condition occurs. `test_equality.py` decides sequences of requests."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.spec.required_history import history_conditions
from tests.evaluator.sources import setting_with_history


def test_generated_histories_are_of_every_form() -> None:
    met = set[str]()
    for seed in range(20):
        kernel = setting_with_history(seed).kernel
        for node in history_conditions((kernel.agents, kernel.users, kernel.guards)):
            met |= set(forms_of(node))
    forms = {"HistoryCondition", "count", "sum", "distinct", "since", "keys", "denied", "where", "status", "nobody's",
             "output", "outcome tested", "outcome with a default", "sum of statuses", "sum with a default",
             "distinct with a default"}  # fmt: skip
    assert met == forms


def forms_of(node: k.HistoryCondition | k.Aggregate) -> Iterator[str]:
    event, read = node.event, list(k.walk(node.event.where)) if node.event.where is not None else []
    yield node.function if isinstance(node, k.Aggregate) else "HistoryCondition"
    yield from ["since"] if node.since is not None else []
    yield from ["nobody's" if event.keys == () else "keys"] if event.keys is not None else []
    yield from ["denied"] if event.denied else []
    yield from ["where"] if read else []
    for part in read:
        yield from outcome_forms(part)
    if isinstance(node, k.Aggregate):
        yield from [f"{node.function} with a default"] if isinstance(node.field, k.Default) else []
        yield from ["sum of statuses"] if event.status and node.function == "sum" else []


def outcome_forms(part: k.Expr) -> Iterator[str]:
    match part:
        case k.PastFact(k.Fact(("past", "status"))):
            yield "status"
        case k.PastFact(k.Fact(("past", "output", *_))):
            yield "output"
        case k.IsPresent(k.PastFact(k.Fact(("past", *_)))):
            yield "outcome tested"
        case k.Default(k.PastFact(k.Fact(("past", *_)))):
            yield "outcome with a default"
