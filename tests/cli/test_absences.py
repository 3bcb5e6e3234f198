"""What hangs on an absence that gateways do not show is told where policies are served, and by `doctor`."""

from __future__ import annotations

import json

import pytest

from policyengine.cli.absence_warnings import MAX_LISTED_CONDITIONS, HiddenAbsences, UnsentFacts
from policyengine.engine import Engine
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.http.gateway_omissions import GatewayAdapter
from tests.cli.test_serve import serving  # noqa: F401  # a fixture

RULES = """
facts on POST /pay, TOOL pay { body.note: string? }
facts { context.risk: number? }
issuer acme { scopes none }
anyone { may POST /pay, TOOL pay, GET /x }
guard "note" on POST /pay { deny when (body.note else "") == "urgent" }
guard "role" on GET /x { deny when request.headers["x-role"] is present }
guard "risk" on GET /x { deny when (context.risk else 0) > 5 }
guard "query" on GET /x { deny when request.query["as"] is present }
guard "tool" on TOOL pay { deny when body.note is present }
user where (user.id else "") != "" { may GET /x }
agent where (agent.model else "") != "bad" { issued by acme   acts alone   may GET /x }
"""
HTTP = (GatewayAdapter.FORWARD_AUTH, GatewayAdapter.NGINX, GatewayAdapter.ENVOY)


def hidden(
    names: GatewayHeaders | None = None, *adapters: GatewayAdapter, proves: bool = False
) -> dict[str, list[str]]:
    """By what is asked, where it is unknown."""
    kernel = Engine.from_text(RULES).kernel
    found = HiddenAbsences.of(kernel, names or GatewayHeaders(), adapters or tuple(GatewayAdapter), proves=proves).found
    return {absence.words: [str(one) for one in at] for absence, at in found}


NOTE, ROLE, RISK = 'body.note else ""', 'request.headers["x-role"] is present', "context.risk else 0"
MODEL = 'agent.model else ""'
EVERY = ["forward_auth", "nginx", "envoy", "envoy_grpc"]


def test_each_adapter_hides_the_facts_that_its_gateway_does_not_pass_on():
    assert hidden() == {NOTE: EVERY, ROLE: ["nginx", "envoy"], RISK: EVERY, MODEL: EVERY}


@pytest.mark.parametrize(
    ("names", "changed"),
    [
        (GatewayHeaders(bodies=("envoy", "envoy_grpc")), {NOTE: ["forward_auth", "nginx"]}),
        (GatewayHeaders(hands_on_nginx=("x-role",)), {ROLE: ["envoy"]}),
        (GatewayHeaders(hands_on_forward_auth=("x-other",)), {ROLE: ["forward_auth", "nginx", "envoy"]}),
        (GatewayHeaders(hands_on_nginx=("all",), hands_on_envoy=("all",)), {ROLE: None}),
    ],
)
def test_facts_that_a_gateway_passes_on_are_not_hidden(names, changed):
    expected = {NOTE: EVERY, ROLE: ["nginx", "envoy"], RISK: EVERY, MODEL: EVERY} | changed
    assert hidden(names) == {words: at for words, at in expected.items() if at}


def test_caller_facts_are_not_hidden_if_the_server_verifies_credentials():
    assert MODEL not in hidden(proves=True)


def test_nothing_is_hidden_without_adapters_or_http_grants():
    kernel = Engine.from_text(RULES).kernel
    assert not HiddenAbsences.of(kernel, GatewayHeaders(), (), proves=False)
    tools = Engine.from_text('facts { body.a: int? }\nanyone { may TOOL x }\nguard "g" { deny when body.a is present }')
    assert not HiddenAbsences.of(tools.kernel, GatewayHeaders(), HTTP, proves=False)


def test_hidden_absences_are_grouped_by_adapter_and_the_list_is_bounded():
    rules = "".join(f'guard "g{n}" on GET /x {{ deny when request.headers["x-{n}"] is present }}\n' for n in range(9))
    kernel = Engine.from_text(f"{RULES}{rules}", "shop.policy").kernel
    found = HiddenAbsences.of(kernel, GatewayHeaders(), HTTP, proves=False)
    lines = list(found.lines())
    assert found.message.startswith("13 conditions depend on whether a fact is absent, which a gateway does not report")
    assert lines[:4] == [
        "at /forward-auth, /forward-auth/nginx and /envoy",
        f'  shop.policy:6  guard "note": `{NOTE}`',
        f'  shop.policy:8  guard "risk": `{RISK}`',
        f"  shop.policy:12  caller: `{MODEL}`",
    ]
    assert lines[4:6] == ["at /forward-auth/nginx and /envoy", f'  shop.policy:7  guard "role": `{ROLE}`']
    assert lines[-1] == f"and {13 - MAX_LISTED_CONDITIONS} more"


def test_serve_reports_hidden_absences_at_startup(serving, project):  # noqa: F811
    (project / "more.policy").write_text(f"language 1\npackage more\n{RULES}")
    process = serving("--format", "json", "--log-format", "json")
    said = json.loads(process.stdout.readline())["hidden_absences"]
    assert said["count"] == 4
    assert said["conditions"][0] == {
        "at": "more.policy:8",
        "rule": 'guard "note"',
        "asks": NOTE,
        "unknown_at": ["forward_auth", "nginx", "envoy"],
    }
    events = [json.loads(process.stderr.readline()) for _ in range(2)]
    assert events[1]["event"] == "hidden_absences"
    assert {name: events[1][name] for name in said} == said


def test_doctor_reports_hidden_absences(run, tmp_path):
    (tmp_path / "a.policy").write_text(f"language 1\npackage more\n{RULES}")
    ended = run("doctor", "a.policy", "--port", 0)
    assert "· gateways: 4 conditions depend on whether a fact is absent, which a gateway does not report" in ended.out
    (tmp_path / "policyengine.toml").write_text('[gateway]\nhands_on_nginx = "all"\nhands_on_envoy = "all"\n')
    assert "gateways: 3 conditions depend on" in run("doctor", "a.policy", "--port", 0).out


READING = """
facts on POST /pay, TOOL pay { body.amount: number   body.note: string? }
facts { context.risk: number? }
issuer acme { scopes none }
anyone { may POST /pay, TOOL pay, GET /x }
guard "large" on POST /pay { deny when body.amount > 500 message "{body.note}" }
guard "note" on POST /pay { deny when (body.note else "") == "urgent" }
guard "role" on GET /x { deny when request.headers["x-role"] == "root" }
guard "tool" on TOOL pay { deny when body.amount > 500 }
user where user.id != "eve" { may GET /x when context.risk < 5 }
agent where agent.model != "bad" { issued by acme   acts alone   may GET /x }
"""


def unsent(
    names: GatewayHeaders | None = None, *adapters: GatewayAdapter, proves: bool = False
) -> dict[str, list[str]]:
    kernel = Engine.from_text(READING).kernel
    uses = UnsentFacts.of(kernel, names or GatewayHeaders(), adapters or tuple(GatewayAdapter), proves=proves).uses
    return {f"{use.rule}: {'.'.join(use.path)}": [str(at) for at in adapters] for use, adapters in uses}


def test_the_facts_that_a_gateway_never_sends_are_listed_with_the_rules_that_read_them():
    assert unsent() == {
        'guard "large": body.amount': ["forward_auth", "nginx"],
        'guard "role": request.headers.x-role': ["nginx", "envoy"],
        "`may`: context.risk": EVERY,
        "caller: agent.model": EVERY,
    }


def test_a_fact_that_a_header_or_a_credential_carries_is_sent():
    assert 'guard "role": request.headers.x-role' not in unsent(
        GatewayHeaders(hands_on_nginx=("x-role",), hands_on_envoy=("all",))
    )
    assert "caller: agent.model" not in unsent(proves=True)
    assert 'guard "large": body.amount' not in unsent(None, GatewayAdapter.ENVOY)


def test_doctor_and_a_server_with_configured_gateways_report_facts_that_are_never_sent(serving, project, run):  # noqa: F811
    (project / "more.policy").write_text(f"language 1\npackage more\n{READING}")
    ended = run("doctor", project, "--port", 0)
    assert "facts that a gateway never sends" in ended.out
    assert 'more.policy:8  guard "large": `body.amount`' in ended.out
    said = json.loads(serving("--format", "json").stdout.readline())
    assert "unsent_facts" not in said
    (project / "policyengine.toml").write_text('[gateway]\nbodies = ["envoy"]\n')
    told = json.loads(serving("--format", "json").stdout.readline())["unsent_facts"]
    assert told["count"] == 5
    assert told["facts"][1] == {
        "at": "more.policy:8",
        "rule": 'guard "large"',
        "fact": "body.amount",
        "unknown_at": ["forward_auth", "nginx"],
    }
