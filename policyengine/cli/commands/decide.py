"""`policyengine decide`: decide one request, or one per line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from policyengine.cli.errors import CommandError, report_error, short_log_messages
from policyengine.cli.load_engine import load_engine, report_request_errors
from policyengine.cli.options.common import (
    EntitySources,
    IdentityFile,
    PoliciesOrBundle,
    RequestFile,
    StoreUrl,
    TextOrJson,
    TrustedKeys,
)
from policyengine.cli.output.terminal import OUTCOME_STYLES, OutputFormat, Screen, TextPart, print_json
from policyengine.cli.request_input import RequestDocument, read_requests

if TYPE_CHECKING:
    from policyengine.engine import Engine
    from policyengine.runtime.decision import Decision

EXIT_CODES = {"allow": 0, "deny": 10, "confirm": 11, "throttle": 12}
FAILED = 1
STRONGEST_FIRST = (FAILED, EXIT_CODES["deny"], EXIT_CODES["throttle"], EXIT_CODES["confirm"], EXIT_CODES["allow"])


def decide(
    paths: PoliciesOrBundle,
    request: RequestFile,
    entities: EntitySources = None,
    store: StoreUrl = "memory:",
    identity: IdentityFile = None,
    trust: TrustedKeys = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Decide one request, or one on each line.

    A file that ends in `.jsonl` or `.ndjson` has one request per line, and so does stdin if its first line is a
    complete request. Requests are decided in order, as they arrive; what one request spends is no longer available to
    the next.

    \b
    Exit codes:
      0   allow
      10  deny
      11  confirm
      12  throttle
      1   no decision: an error in the policy or in a request
    With several requests, the exit code is that of the strongest outcome, in this order: error, deny, throttle,
    confirm, allow.

    \b
    Example:
      policyengine decide payments/ --request request.json --entities entities.json
      tail -f requests.jsonl | policyengine decide payments/ -r - --format json
    """
    engine = load_engine(paths, entities, trust, store=store, identity=identity)
    questions = read_requests(request)
    with short_log_messages():
        if format is OutputFormat.JSON:
            return strongest_code(_show_json(_decide_each(engine, questions)))
        return strongest_code(_show_text(engine, _decide_each(engine, _single_in_full(questions))))


def strongest_code(codes: Iterable[int]) -> int:
    return min(codes, key=STRONGEST_FIRST.index)


def _single_in_full(questions: Iterator[RequestDocument]) -> Iterator[RequestDocument]:
    """Yield the requests. If there is only one request, its line number is removed, so that its decision is printed in
    full even if the request was piped in on one line.
    """
    first, second = next(questions), next(questions, None)
    yield first if second is not None else replace(first, line=None)
    if second is not None:
        yield second
        yield from questions


def _decide_each(
    engine: Engine, questions: Iterator[RequestDocument]
) -> Iterator[tuple[RequestDocument, Decision | CommandError]]:
    """Yield each request with its decision. In a file of several lines, an invalid request affects only its line."""
    for question in questions:
        answer: Decision | CommandError
        try:
            with report_request_errors(question):
                answer = engine.decide(question.data)
        except CommandError as error:
            if question.line is None:
                raise
            answer = error
        yield question, answer


def _show_json(answers: Iterable[tuple[RequestDocument, Decision | CommandError]]) -> set[int]:
    codes = set()
    for question, answer in answers:
        if isinstance(answer, CommandError):
            codes.add(report_error(answer, as_json=True))
        else:
            print_json(answer.to_dict(), indent=2 if question.line is None else None)
            codes.add(EXIT_CODES[answer.outcome])
    return codes


def _show_text(engine: Engine, answers: Iterator[tuple[RequestDocument, Decision | CommandError]]) -> set[int]:
    codes, screen = set(), Screen()
    for question, answer in answers:
        codes.add(answer.code if isinstance(answer, CommandError) else EXIT_CODES[answer.outcome])
        if question.line is None and not isinstance(answer, CommandError):
            print_decision(screen, answer)
            print_token_claims(screen, engine, answer, question.data)
        else:
            screen.line(f"{question.line}: ", *_headline(answer))
            screen.stream.flush()
    return codes


def print_refusal_code(screen: Screen, decision: Decision) -> bool:
    """Print the code of the reason why a credential was refused, and return whether there is one."""
    code = next((reason.code for reason in decision.reasons if reason.code is not None), None)
    if code is not None:
        screen.line(f"  code: {code}, see docs/identity.md")
    return code is not None


def print_token_claims(screen: Screen, engine: Engine, decision: Decision, question: bytes) -> None:
    """Print the claims of a refused token, if the decision refuses one. This reveals nothing new: the token is in
    `question`.
    """
    if all(reason.code is None for reason in decision.reasons):
        return
    from policyengine.identity.token_report import describe_token

    for line in describe_token(question, engine.kernel, engine.decider.seconds()):
        screen.line(f"  {line}")


def print_decision(
    screen: Screen, decision: Decision, explain: str = "`policyengine explain` with the same arguments"
) -> None:
    """Print one decision for a person: the outcome, the reasons, and what would change the outcome. `explain` is the
    command that the output names for an explanation.
    """
    from policyengine.explain.explanation import remedy_words

    screen.line(*_headline(decision))
    for reason in decision.reasons:
        by = "" if reason.rule is None else f' "{reason.rule}"'
        at = "" if reason.at is None else f"  ({reason.at})"
        screen.line(f"  {reason.gate}{by}: {reason.message}{at}")
    if not print_refusal_code(screen, decision) and decision.gate == "identity":
        screen.line(f"  would help: {explain} shows which blocks did not apply, and why")
    for fact in decision.unknown:
        screen.line(f"  unknown: {fact.fact} ({fact.why})")
    for remedy in decision.remedies:
        screen.line(f"  would help: {remedy_words(remedy)}")
    for obligation in decision.obligations:
        at = f"  ({obligation.at})" if obligation.at else ""
        screen.line(f"  to do: {' '.join([obligation.kind, *obligation.arguments])}{at}")


def _headline(answer: Decision | CommandError) -> tuple[TextPart, ...]:
    from policyengine.explain.explanation import headline

    if isinstance(answer, CommandError):
        return ("error", "bold red"), f": {answer.message}"
    outcome = str(answer.outcome)
    return (outcome, OUTCOME_STYLES[outcome]), headline(answer).removeprefix(outcome)
