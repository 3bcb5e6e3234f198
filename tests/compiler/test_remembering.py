"""What happened before, in generated policies: many decisions in a row, by the engine as in the specification."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache
from random import Random

from policyengine import kernel as k
from policyengine.runtime.decision import Outcome
from policyengine.spec.required_history import history_conditions
from tests.compiler.equality import Pair, Tally
from tests.generate.asking import Asking, Setting, fitting, lean, posted, varied
from tests.generate.cases import checked_policy, kernel_of
from tests.generate.policies import remembering
from tests.generate.requests import NOW, directory, rows
from tests.generate.specified import Said

STEPS = (0, 0, 1, 9, 30, 60, 599, 3_600)  # seconds
REPORTED = 0.5  # of what was allowed; the outcome of the rest is not known
STATUS = (200, 201, 399, 400, 500)


@lru_cache(maxsize=64)
def asking_of_the_past(seed: int) -> Setting:
    random = Random(f"remembering {seed}")
    found = checked_policy(random, remembering)
    known = rows(random, known=1.0)
    kernel = kernel_of(found)
    assert kernel is not None
    return Setting(found, known, kernel, directory(known))


def play(seed: int, length: int) -> Tally:
    """Few callers that ask much the same again and again, so that one request is the past of another."""
    asked = asking_of_the_past(seed)
    random, pair = Random(f"playing {seed}"), Pair.of(asked, NOW, seed)
    text, now = "\n".join(asked.policy.texts), NOW
    bases = [lean(random, fitting(random, asked.kernel), text) for _ in range(6)]
    for _ in range(length):
        now += timedelta(seconds=random.choice(STEPS))
        question = posted(random, varied(random, random.choice(bases)))
        peeks = random.random() < 0.1
        found = pair.holds(Asking(question, now), peeks=peeks)
        if isinstance(found, Said) and found.outcome is Outcome.ALLOW and not peeks and random.random() < REPORTED:
            pair.reports(random.choice(STATUS))
    return pair.tally


def test_decisions_in_a_row_are_decided_as_specified_whatever_happened_before() -> None:
    tally = sum((play(seed, 30) for seed in range(32)), Tally())
    assert tally.reached["effect records"] >= 20, str(tally)
    assert min(tally.reached[f"reason guard {outcome}"] for outcome in ("deny", "confirm")) >= 10, str(tally)


def test_generated_histories_are_of_every_form() -> None:
    met = set[str]()
    for seed in range(40):
        for node in history_conditions((asking_of_the_past(seed).kernel.guards,)):
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
