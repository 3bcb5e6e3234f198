"""`policyengine explain`: show how a decision is made, gate by gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policyengine.cli.commands.decide import EXIT_CODES, print_refusal_code, print_token_claims
from policyengine.cli.errors import CommandError
from policyengine.cli.explain_record import exit_code, explain_record
from policyengine.cli.load_engine import load_engine, report_request_errors
from policyengine.cli.options.common import (
    EntitySources,
    IdentityFile,
    OptionalRequest,
    PoliciesOrBundle,
    TextOrJson,
    TrustedKeys,
)
from policyengine.cli.output.terminal import OUTCOME_STYLES, OutputFormat, Screen, print_json
from policyengine.cli.request_input import read_single_request


def explain(
    paths: PoliciesOrBundle,
    request: OptionalRequest = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log", metavar="FILE", help="Explain the request of a decision in this log.", show_default=False
        ),
    ] = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="With --log: the ID of the decision.", show_default=False)
    ] = None,
    entities: EntitySources = None,
    identity: IdentityFile = None,
    trust: TrustedKeys = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Show how one request is decided, gate by gate.

    The output shows every rule that took part and every fact that was missing. Nothing is spent.

    With `--log` and `--id`, the request is that of a logged decision, with the entities, the history and the time of
    that decision, and the output also shows how the logged decision differs. `--entities` replaces the logged entities.

    The exit codes are those of `decide`. With `--log`, 1 also means that the seal of the log does not contain the
    record.

    \b
    Example:
      policyengine explain payments/ --request request.json
      policyengine explain payments/ --log decisions.jsonl --id 01K4QJ6V1N3W8Y5T2R9ZXBCDEF
    """
    if request is None or log is not None or id is not None:
        if request is not None or log is None or id is None:
            hint = "pass `--request FILE`, or `--log FILE` and `--id ID`"
            raise CommandError("usage", "the request to explain is ambiguous", hint, code=2)
        if identity is not None:
            hint = "omit `--identity`: the log records what the credentials proved"
            raise CommandError("usage", "a logged request has no credentials to verify", hint, code=2)
        return exit_code(explain_record(paths, log, id, entities, trust, format), EXIT_CODES)
    engine = load_engine(paths, entities, trust, identity=identity)
    question = read_single_request(request)
    with report_request_errors(question):
        explanation = engine.explain(question.data)
    if format is OutputFormat.JSON:
        print_json(explanation.to_dict())
    else:
        print_walk(str(explanation.decision.outcome), explanation.render())
        print_refusal_code(Screen(), explanation.decision)
        print_token_claims(Screen(), engine, explanation.decision, question.data)
    return EXIT_CODES[explanation.decision.outcome]


def print_walk(outcome: str, walk: str) -> None:
    """Print an explanation, whose first word is the outcome."""
    screen = Screen()
    first, _, others = walk.partition("\n")
    screen.line((outcome, OUTCOME_STYLES[outcome]), first.removeprefix(outcome))
    screen.findings(others.rstrip("\n"))
