"""`--redact` with a name that no rule reads, beside one that a rule reads."""

import pytest

from policyengine.audit.redaction import Redaction
from policyengine.cli.redaction_names import misspelled_redactions
from policyengine.engine import Engine

POLICY = """language 1
package shop
issuer acme { url "https://x.example"   scopes none }
facts on TOOL files/* { args.path: string   args.name: string?   args.to: { mail: string   name: string? } }
facts { body.parts: list<{ card: string }>?   context.zone: string? }
agent "bot" { issued by acme   acts alone   may TOOL files/* when context.zone == "eu" }
guard "paths" on TOOL files/* {
  deny when args.path == "/etc" or args.to.mail == "x" or request.headers["x-card"] == "1" or args.name == "y"
}
guard "parts" { deny when any one in (body.parts else []): one.card == "1" }
"""


@pytest.fixture(scope="module")
def kernel():
    return Engine.from_text(POLICY).kernel


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("args.pth", "args.path"),
        ("args.Path", "args.path"),
        ("args.to.mial", "args.to.mail"),
        ("args.paths.*.x", "args.path.*.x"),
        ("context.zones", "context.zone"),
        ("body.part.*.card", "body.parts.*.card"),
        ('request.headers["x-crd"]', 'request.headers["x-card"]'),
        ("request.header.accept", "request.headers.accept"),
    ],
)
def test_a_misspelled_redaction_gets_a_suggestion(kernel, name, meant):
    [told] = misspelled_redactions(Redaction.of([name]), kernel)
    assert told == f"`--redact {name}` matches no fact that a rule reads: did you mean `{meant}`?"


@pytest.mark.parametrize(
    "name",
    [
        "args.path",
        "args.path.deeper",
        "args.to",
        "args.to.mail",
        "args.**.pth",
        "args.*.mail",
        "body.parts.*.card",
        "body.note",
        "args.note",
        "credential.claims.email",
        'request.headers["x-card"]',
        'request.headers["accept-language"]',
    ],
)
def test_a_redaction_of_a_known_or_dissimilar_fact_is_not_reported(kernel, name):
    assert list(misspelled_redactions(Redaction.of([name]), kernel)) == []


@pytest.mark.parametrize(
    "words",
    [
        ("mcp-gateway", "p.policy", "--upstream", "true", "--server", "nowhere", "--as", "agent=bot"),
        ("serve", "p.policy", "--port", "0", "--reload-gate", "diff", "--socket", "/nowhere/socket"),
    ],
)
def test_serve_and_mcp_gateway_warn_about_a_misspelled_redaction(run, tmp_path, words):
    (tmp_path / "p.policy").write_text(POLICY)
    ended = run(*words, "--log", "log.jsonl", "--redact", "args.pth")
    assert ended.code != 0
    assert "warning: `--redact args.pth` matches no fact that a rule reads: did you mean `args.path`?" in ended.err
