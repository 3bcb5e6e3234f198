"""Repeated requests, and the responses that the gateway reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from policyengine.plurals import pluralize
from policyengine.runtime.decision import Outcome
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testcases.raw_facts import ValueContext, check_members_unique, key_path, put_nested, raw_value
from policyengine.testcases.scenario import ExpectedOutcome, Repetition, ReportedResponse
from policyengine.time_formats import parse_duration

MAX_REPEATS = 100_000
HTTP_STATUSES = range(100, 600)


@dataclass(frozen=True, slots=True)
class RepeatMistake:
    message: str
    span: Span
    hint: str


def repeat_clauses(shot: ast.Shot) -> list[ast.Repeat]:
    return [moment for moment in shot.moments if isinstance(moment, ast.Repeat)]


@dataclass(frozen=True, slots=True)
class RequestExtras:
    """The parts of a request besides its question: repetitions, and the reported response."""

    repeated: Repetition | None = None
    responded: ReportedResponse | None = None


def read_extras(shot: ast.Shot, wanted: ExpectedOutcome | None, reading: ValueContext) -> RequestExtras | None:
    """Parse the extras of a request; return None if a mistake was reported."""
    mistakes = [*repeat_mistakes(shot), *response_mistakes(shot, wanted)]
    for mistake in mistakes:
        reading.report("E621", mistake.message, mistake.span, mistake.hint)
    response = read_response(shot.responded, reading) if shot.responded is not None else None
    return None if mistakes else RequestExtras(read_repeat(shot), response)


def read_repeat(shot: ast.Shot) -> Repetition | None:
    """Parse `repeat`; return None if it is missing or invalid, which `repeat_mistakes` reports."""
    for repeat in repeat_clauses(shot)[:1]:
        times, within = parse_count(repeat.count), parse_duration(repeat.within.text)
        return Repetition(times, within) if times and within else None
    return None


# ── `repeat 21 in 10s … => first throttle at 21` ──────────────────────────────────────────────


def repeat_mistakes(shot: ast.Shot) -> Iterator[RepeatMistake]:
    many = repeat_clauses(shot)
    for other in many[1:]:
        yield RepeatMistake("a request has only one `repeat`", other.span, "keep one `repeat`")
    for repeat in many:
        yield from count_mistakes(repeat.count, "repeat a request at least once", "repeat 21 in 10s")
        if parse_duration(repeat.within.text) == timedelta(0):
            yield RepeatMistake(
                "the duration of `repeat` must be above zero",
                repeat.within.span,
                "write the total time of all requests: `10s`",
            )
    at = shot.expected.first_at
    if at is None or not many:
        return
    yield from count_mistakes(at, "the first request has the number 1", f"first {shot.expected.outcome} at 21")
    times, number = parse_count(many[0].count), parse_count(at)
    if times and number and number > times:
        yield RepeatMistake(f"`repeat` makes only {pluralize(times, 'request')}", at.span, "name one of these requests")


def count_mistakes(literal: ast.Literal, message: str, example: str) -> Iterator[RepeatMistake]:
    number = parse_count(literal)
    if number is None:
        yield RepeatMistake(
            f"`{literal.text}` is not a number of requests", literal.span, f"write it as in `{example}`"
        )
    elif number < 1:
        yield RepeatMistake(message, literal.span, "write `1` or more")
    elif number > MAX_REPEATS:
        yield RepeatMistake(
            f"`repeat` can make at most {MAX_REPEATS:,} requests", literal.span, "repeat the request less often"
        )


def parse_count(literal: ast.Literal) -> int | None:
    digits = literal.text.replace("_", "")
    return int(digits[:18]) if digits.isdigit() else None


# ── `responded 201 { output.claim_id: 7 }` ────────────────────────────────────────────────────


def response_mistakes(shot: ast.Shot, wanted: ExpectedOutcome | None) -> Iterator[RepeatMistake]:
    responded = shot.responded
    if responded is None:
        return
    if wanted is not None and wanted.first is None and Outcome.ALLOW not in wanted.possible:
        message = "a request that is not allowed is never sent, so it has no response"
        yield RepeatMistake(message, responded.span, "remove `responded …`, or expect `allow`")
    if (status := parse_count(responded.status)) is None or status not in HTTP_STATUSES:
        hint = "write a number from 100 to 599: `responded 201`"
        yield RepeatMistake(f"`{responded.status.text}` is not an HTTP status", responded.status.span, hint)
    for pair in responded.output.pairs if responded.output is not None else ():
        path = key_path(pair)
        if path[0] != "output" or len(path) < 2:
            name = ".".join(path)
            hint = f"write `output.{name if path[0] != 'output' else 'id'}: …`"
            yield RepeatMistake(f"`{name}` is not part of a response", pair.key.span, hint)


def read_response(response: ast.ResponseClause, reading: ValueContext) -> ReportedResponse:
    """Parse a response. Output names are free; values are written as elsewhere in tests."""
    output: dict[str, object] = {}
    pairs = response.output.pairs if response.output is not None else ()
    if response.output is not None:
        check_members_unique(response.output, reading.report)
    for pair in pairs:
        value, path = raw_value(pair.value, reading), key_path(pair)
        if len(path) > 1:
            put_nested(output, path[1:], value)
    return ReportedResponse(parse_count(response.status) or 0, output)
