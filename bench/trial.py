"""One engine on trial: if it agrees on every verdict, it is timed in turns with the floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from bench.child import Data
from bench.measure import duel, fresh_questions
from bench.peers import Peer

SECONDS = 2.0  # for all rounds of one engine
MIN_TIMED_QUESTIONS = 100
SAMPLE = 20  # answers from which the total time is estimated


def trial(
    peer: Peer,
    requests: Sequence[Any],
    expected: Sequence[bool],
    floor: Peer,
    floor_requests: Sequence[Any],
    cap: float,
) -> Data:
    """Verify all requests within `cap` seconds, then time the engine; `floor_requests` are those of the floor."""
    questions = [peer.question(asked) for asked in requests]
    if problem := verification_problem(peer, questions, expected, cap):
        return {"skipped": problem}
    chosen = slice(_affordable_questions(peer.ask, questions))
    fresh, same = (
        fresh_questions(peer.question, requests[chosen]),
        fresh_questions(floor.question, floor_requests[chosen]),
    )
    result = duel(peer.ask, fresh, floor.ask, same, SECONDS)
    return {
        "verified": len(questions),
        "timed": len(questions[chosen]),
        "rounds": result.rounds,
        "p50_us": round(result.ours.p50, 3),
        "p99_us": round(result.ours.p99, 3),
        "mean_us": round(result.ours.mean, 3),
        "floor_p50_us": round(result.floor.p50, 3),
        "floor_p99_us": round(result.floor.p99, 3),
        "floor_mean_us": round(result.floor.mean, 3),
        "ratio": round(result.ratio, 3),
        "mean_ratio": round(result.mean_ratio, 3),
    }


def verification_problem(peer: Peer, questions: Sequence[Any], expected: Sequence[bool], cap: float) -> str | None:
    """Return why the engine is not timed: a verdict differs, or verifying would exceed the cap. Return None if it can
    be timed.

    The first answer is not part of the estimate, because many engines initialize during it.
    """
    start = perf_counter()
    for count, (question, verdict) in enumerate(zip(questions, expected, strict=True)):
        if bool(peer.allowed(peer.ask(question))) is not verdict:
            return f"wrong: request {count + 1} should be {'allowed' if verdict else 'denied'}"
        if count == 0:
            start = perf_counter()
            continue
        took = perf_counter() - start
        whole = took / count * len(questions)
        if whole > cap and (count >= SAMPLE or took > cap):
            return f"unverified: needs {whole:,.0f} s"
    return None


def _affordable_questions(ask: Callable[[Any], Any], questions: Sequence[Any]) -> int:
    """Return the number of questions that three rounds of two loops can ask in SECONDS; at least MIN_TIMED_QUESTIONS,
    but not more than there are.
    """
    some = questions[:50]
    start = perf_counter()
    for question in some:
        ask(question)
    each = (perf_counter() - start) / len(some)
    return max(MIN_TIMED_QUESTIONS, min(len(questions), int(SECONDS / 6 / each)))


def format_cell(one: Data | None) -> str:
    """Return the table cell of a trial: `p50 / p99  ratio×`, or why it is missing."""
    if one is None:
        return ""
    if "skipped" in one:
        return str(one["skipped"])
    return f"{format_number(one['p50_us'])} / {format_number(one['p99_us'])}  {format_number(one['ratio'])}×"


def format_number(value: float | None) -> str:
    """Return the number with three significant digits: 0.82, 14.4, 6,552."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
