"""`policyengine explain`: show how a decision is made, gate by gate."""

from __future__ import annotations

from policyengine.cli.commands.decide import EXIT_CODES, print_refusal_code, print_token_claims
from policyengine.cli.load_engine import load_engine, report_request_errors
from policyengine.cli.options.common import (
    EntitySources,
    IdentityFile,
    PoliciesOrBundle,
    RequestFile,
    TextOrJson,
    TrustedKeys,
)
from policyengine.cli.output.terminal import OUTCOME_STYLES, OutputFormat, Screen, print_json
from policyengine.cli.request_input import read_single_request


def explain(
    paths: PoliciesOrBundle,
    request: RequestFile,
    entities: EntitySources = None,
    identity: IdentityFile = None,
    trust: TrustedKeys = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Show how one request is decided, gate by gate.

    The output shows every rule that took part and every fact that was missing. Nothing is spent.

    The exit codes are those of `decide`.

    \b
    Example:
      policyengine explain payments/ --request request.json
    """
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
