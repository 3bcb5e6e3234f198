"""Questions for the comparison with the specification: each source asks many of one generated policy.

`SOURCES` has them by name. A source is a function of a seed and a number of questions; it returns how often each case
occurred, and raises AssertionError for the first difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import lru_cache
from random import Random
from typing import Any, TypeAlias

from policyengine.runtime.decision import Outcome
from tests.evaluator.equality import Answer, Pair, Tally, shrink_difference
from tests.generate import credentials, elements
from tests.generate.asking import (
    CANDIDATES,
    Asking,
    Setting,
    askings,
    fitting,
    lean,
    passing,
    posted,
    rules_of,
    setting,
    spread,
    varied,
)
from tests.generate.bindings import binding, bound
from tests.generate.cases import checked_policy, kernel_of
from tests.generate.chains import delegating, rechained, relayed
from tests.generate.learned import learned_facts, learning
from tests.generate.policies import File, Policy, recalling, remembering
from tests.generate.properties import near_misses
from tests.generate.requests import NOW, NOWS, Question, approved, directory, rows
from tests.generate.specified import Said

Source: TypeAlias = Callable[[int, int], Tally]
EVALUATED = 0.3  # share of the questions that are only evaluated
FOLLOWED = 0.6  # share of the confirms that are asked again, with approvals


def hold(source: Source, seeds: Iterable[int], questions: int) -> Tally:
    """Ask this many questions of the policy of each seed."""
    return sum((source(seed, questions) for seed in seeds), Tally())


def compare_each(asked: Setting, seed: object, questions: Iterator[Asking], number: int) -> Tally:
    """Compare this many questions: these, and those that follow from their answers."""
    random, pair, later = Random(f"{seed}"), Pair.of(asked, NOW), deque[Asking]()  # each asking sets the clock
    for _ in range(number):
        asking = later.popleft() if later and random.random() < 0.5 else next(questions)
        try:
            found = pair.compare(asking, peeks=random.random() < EVALUATED)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {shrink_difference(asked, asking) or error}") from None
        later.extend(followed(random, asking, found))
    return pair.tally


def followed(random: Random, asking: Asking, found: Answer) -> Iterator[Asking]:
    """Ask a confirm again, with approvals, more often than they last; also ask a question that is almost the same."""
    confirms = isinstance(found, Said) and found.outcome is Outcome.CONFIRM
    plain = type(asking.question) is dict and "approvals" not in asking.question
    if confirms and plain and random.random() < FOLLOWED:
        again = Asking(approved(random, asking.question, found, asking.now), asking.now)
        yield from (
            Asking({**other, "approvals": again.question["approvals"]}, asking.now)
            for other in near_misses(random, asking.question, most=1)
        )
        yield from [again] * random.choice([1, 2, 3])


# ── Questions of every kind ───────────────────────────────────────────────────────────────────


def ask_anything(seed: int, questions: int) -> Tally:
    return compare_each(setting(seed), seed, askings(seed, questions), questions)


# ── Questions to policies about one thing ─────────────────────────────────────────────────────


@lru_cache(maxsize=64)
def setting_of(write: Callable[[Random], Policy], seed: int) -> Setting:
    random = Random(f"{write.__name__} {seed}")
    found = checked_policy(random, write)
    known = rows(random, known=random.choice([0.9, 1.0, 1.0]))
    kernel = kernel_of(found)
    assert kernel is not None
    return Setting(found, known, kernel, directory(known))


def compare_plain(asked: Setting, seed: int, given: Iterator[Question], number: int) -> Tally:
    random = Random(f"plain {seed}")
    questions = (Asking(posted(random, one), NOW if random.random() < 0.9 else random.choice(NOWS)) for one in given)
    return compare_each(asked, seed, questions, number)


def fitted(random: Random, asked: Setting) -> Iterator[Question]:
    """Yield the candidates for base questions."""
    text = rules_of(asked.policy)
    return (lean(random, fitting(random, asked.kernel), text) for _ in range(CANDIDATES))


def ask_through_chains(seed: int, questions: int) -> Tally:
    """Ask for agents at the end of a chain that the policy permits, or nearly permits."""
    asked, random = setting_of(delegating, seed), Random(f"through chains {seed}")
    bases = spread(asked, (relayed(random, one, asked.kernel) for one in fitted(random, asked)))

    def given() -> Iterator[Question]:
        while True:
            base = random.choice(bases)
            yield rechained(random, varied(random, base) if random.random() < 0.6 else base)

    return compare_plain(asked, seed, given(), questions)


def ask_for_what_is_bound(seed: int, questions: int) -> Tally:
    """Ask for endpoints whose pattern binds something, in another letter case than the policy has them."""
    asked, random = setting_of(binding, seed), Random(f"bound {seed}")
    bases = spread(asked, (bound(random, one) for one in fitted(random, asked)))

    def given() -> Iterator[Question]:
        while True:
            base = random.choice(bases)
            yield varied(random, bound(random, base) if random.random() < 0.6 else base)

    return compare_plain(asked, seed, given(), questions)


def ask_with_credentials(seed: int, questions: int) -> Tally:
    random = Random(f"with credentials {seed}")
    return compare_plain(setting_of(credentials.proving, seed), seed, credentials.questions(random), questions)


def ask_with_elements(seed: int, questions: int) -> Tally:
    random = Random(f"with elements {seed}")
    return compare_plain(setting_of(elements.testing_elements, seed), seed, elements.questions(random), questions)


# ── History ───────────────────────────────────────────────────────────────────────────────────

STEPS = (0, 0, 0, 1, 1, 9, 10, 30, 60, 599, 3_600)  # seconds
REPORTED = 0.5  # share of the allowed requests whose outcome is reported
STATUS = (200, 201, 399, 400, 500, None)
OUTPUTS: tuple[dict[str, object], ...] = (
    {}, {"score": 1}, {"score": 7, "state": "done"}, {"score": "7"}, {"state": 5, "id": ""}, {"score": None, "id": "a"},
    {"score": [1], "id": {"of": "a"}}, {"state": "x" * 1_000, "score": 2.5},
)  # fmt: skip


def setting_with_history(seed: int) -> Setting:
    return setting_of(recalling if seed % 3 else remembering, seed)


def ask_with_history(seed: int, questions: int) -> Tally:
    """Ask few questions again and again, on a clock that goes on, so that each request is the past of later ones."""
    asked = setting_with_history(seed)
    random, pair = Random(f"with history {seed}"), Pair.of(asked, NOW)
    bases, now = passing(asked, fitted(random, asked))[:6], NOW
    for base in bases:
        base["credential"].pop("expires_at", None)
        if random.random() < 0.5:
            base |= {name: bases[0][name] for name in ("user", "agent", "credential") if name in bases[0]}
    for _ in range(questions):
        now += timedelta(seconds=random.choice(STEPS))
        base = random.choice(bases)
        question = posted(random, varied(random, base) if random.random() < 0.4 else base)
        peeks = random.random() < 0.1
        found = pair.compare(Asking(question, now), peeks=peeks)
        if isinstance(found, Said) and found.outcome is Outcome.ALLOW and not peeks and random.random() < REPORTED:
            pair.report(random.choice(STATUS), random.choice(OUTPUTS))
    return pair.tally


# ── Learned facts ─────────────────────────────────────────────────────────────────────────────


def ask_with_learned_facts(seed: int, questions: int) -> Tally:
    """Ask for the same callers with other learned facts each time, on a clock that goes on."""
    asked = setting_of(learning, seed)
    random, pair = Random(f"with learned facts {seed}"), Pair.of(asked, NOW)
    bases, now = passing(asked, fitted(random, asked))[:6], NOW
    for base in bases:
        base["credential"].pop("expires_at", None)
    for _ in range(questions):
        now += timedelta(seconds=random.choice(STEPS))
        base = random.choice(bases)
        question = posted(random, varied(random, base) if random.random() < 0.4 else base)
        pair.compare(Asking(question, now, learned_facts(random)))
    return pair.tally


# ── Approvals and limits ──────────────────────────────────────────────────────────────────────

PAYMENTS = """
entity team in team
entity user { roles: set<string>   manager: user? } in team
issuer open { scopes none }
user any { may POST /pay/{id}   may GET /notes/** }
guard "pay" on POST /pay/{id} {
  confirm by role boss within 15m when context.amount > 100
  confirm by 2 of team "legal" when context.amount > 1_000
}
guard "manager" on POST /pay/{id} {
  confirm by user.manager unless context.amount < 5_000
  audit full when approval.granted
}
guard "all" { deny when context.amount > 9_000 and not approval.granted   warn when approval.granted }
facts { context.amount: number }
"""
LIMITS = """
rate "most" per user.id on /** except POST /pay/2 { 5/1m }
rate "calls" per user.id on POST /pay/{id} { 9_000/1m cost context.amount }
rate "tries" per params.id on POST /pay/{id} { 12/1m counting denials }
rate "at work" per user.id on POST /pay/{id} { at most 3 at once for 1h }
budget "spending" per user.id on POST /pay/{id} { sum context.amount <= 16_000 within 1h }
"""
BUDGETS = """
budget "spending" per user.id on POST /pay/{id} { sum context.amount <= 16_000 within 1h }
budget "often" per (user.id, params.id) on POST /pay/{id} { count <= 4 within 1h }
"""
ROWS: list[dict[str, Any]] = [
    {"type": "user", "id": "alice", "attributes": {"roles": ["clerk"], "manager": "carol"}},
    {"type": "user", "id": "bob", "attributes": {"roles": ["boss"]}, "in": [{"type": "team", "id": "legal"}]},
    {"type": "user", "id": "carol", "attributes": {"roles": ["boss"]}, "in": [{"type": "team", "id": "legal"}]},
    {"type": "user", "id": "dave", "attributes": {"roles": []}, "in": [{"type": "team", "id": "legal"}]},
    {"type": "team", "id": "legal"},
]
AMOUNTS = (50, 500, 5_000, 10_000)


@lru_cache(maxsize=3)
def payments(limits: str = "") -> Setting:
    policy = Policy((File("package acme.pay", (PAYMENTS + limits,)),))
    kernel = kernel_of(policy)
    assert kernel is not None
    return Setting(policy, ROWS, kernel, directory(ROWS))


def payment(amount: int, number: int) -> Question:
    return {
        "user": {"id": "alice"}, "credential": {"issuer": "open"}, "context": {"amount": amount},
        "request": {"method": "POST", "path": f"/pay/{number}"},
    }  # fmt: skip


def with_approvals(random: Random, asked: Question, bindings: list[str]) -> Question:
    """Add some of few approvals, so that they occur again, sometimes twice: fresh, old, or not yet granted."""
    chosen = [
        {
            "id": f"{by}-{random.randrange(12)}", "by": by, "binding": binding,
            "granted_at": (NOW - timedelta(minutes=random.choice([1, 1, 1, 15, 16, -1]))).isoformat(),
        }
        for binding in bindings
        for by in ("bob", "carol", "dave", "alice")
        if random.random() < 0.6
    ]  # fmt: skip
    return {**asked, "approvals": chosen}


def bindings_of(pair: Pair, asked: Question) -> list[str]:
    found = pair.compare(Asking(asked, NOW), peeks=True)
    assert isinstance(found, Said)
    return [one.binding for one in found.remedies if one.binding is not None]


def pay(seed: int, length: int, limits: str = "") -> tuple[Pair, list[Said]]:
    """Decide or evaluate payments in a row, on one engine. Two questions are asked for each."""
    random, pair = Random(seed), Pair.of(payments(limits), NOW)
    answers = []
    for _ in range(length):
        asked = payment(random.choice(AMOUNTS), random.choice([1, 2]))
        asked = with_approvals(random, asked, bindings_of(pair, asked))
        options = random.choice([{}, {}, {"options": {"consume": False}}])
        found = pair.compare(Asking({**asked, **options}, NOW), peeks=random.random() < 0.2)
        assert isinstance(found, Said)
        answers.append(found)
    return pair, answers


def ask_for_payments(seed: int, questions: int) -> Tally:
    """Ask for payments with all limits, with budgets alone, or without limits."""
    return pay(seed, questions // 2, ("", LIMITS, BUDGETS)[seed % 3])[0].tally


SOURCES: dict[str, Source] = {
    "anything": ask_anything,
    "chains": ask_through_chains,
    "bindings": ask_for_what_is_bound,
    "credentials": ask_with_credentials,
    "elements": ask_with_elements,
    "history": ask_with_history,
    "learned": ask_with_learned_facts,
    "payments": ask_for_payments,
}
