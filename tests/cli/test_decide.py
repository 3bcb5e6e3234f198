"""`policyengine decide` and `explain`: from a request on disk or stdin to an answer and an exit code."""

import json
import os
from pathlib import Path

import pytest

from tests.identity.issuing import POLICY as POLICY_OF_TOKENS
from tests.identity.issuing import token

POLICY = """
anyone { may GET /health, GET /asked, GET /closed }
guard "ask first" on /asked { confirm by user  message "asked" }
guard "closed" on /closed { deny }
"""


def ask(path: str) -> bytes:
    return json.dumps({"request": {"method": "GET", "path": path}}).encode()


@pytest.fixture
def policy(run, tmp_path) -> Path:
    path = tmp_path / "small.policy"
    path.write_text(POLICY)
    return path


def test_a_duplicate_body_member_is_unknown_and_denied(run, tmp_path):
    rules = "facts on POST /pay { body.amount: int? }\nanyone { may POST /pay when body.amount == 1 }\n"
    (tmp_path / "pay.policy").write_text(rules)
    for body, outcome in ((b'"amount": 1', "allow"), (b'"amount": 1, "amount": 1', "deny")):
        asked = b'{"request": {"method": "POST", "path": "/pay"}, "body": {%s}}' % body
        ended = run("decide", "pay.policy", "--request", "-", "--format", "json", stdin=asked)
        assert ended.json["outcome"] == outcome


OUTCOMES = [("/health", "allow", 0), ("/closed", "deny", 10), ("/asked", "confirm", 11), ("/nowhere", "deny", 10)]


@pytest.mark.parametrize(("path", "outcome", "code"), OUTCOMES)
@pytest.mark.parametrize("command", ["decide", "explain"])
def test_the_exit_code_follows_the_outcome(run, policy, command, path, outcome, code):
    ended = run(command, policy, "--request", "-", stdin=ask(path))
    assert (ended.code, ended.err) == (code, "")
    assert outcome in ended.out


@pytest.mark.parametrize(("path", "outcome", "code"), OUTCOMES)
def test_decide_prints_the_decision_as_json(run, policy, tmp_path, path, outcome, code):
    (tmp_path / "request.json").write_bytes(ask(path))
    ended = run("decide", policy, "--request", "request.json", "--format", "json")
    assert ended.code == code
    assert ended.json["outcome"] == outcome


def test_explain_prints_the_decision_and_the_walk_as_json(run, policy):
    ended = run("explain", policy, "--request", "-", "--format", "json", stdin=ask("/closed"))
    assert ended.json.keys() >= {"decision", "walk"}
    assert ended.json["decision"]["outcome"] == "deny"


def test_a_denial_names_the_rule_and_its_place(run, policy):
    out = run("decide", "small.policy", "--request", "-", stdin=ask("/closed")).out
    assert out.startswith('deny by guard "closed"\n')
    assert "small.policy:4" in out


def test_the_output_names_a_missing_fact(run, project):
    request = {"request": {"method": "GET", "path": "/documents/99"}, "agent": {"id": "assistant", "issuer": "corp"}}
    request |= {"user": {"id": "alice"}, "credential": {"kind": "jwt", "scopes": ["read:documents"], "lifetime": "5m"}}
    stdin = json.dumps(request).encode()
    ended = run("decide", project, "-e", project / "entities.json", "-r", "-", stdin=stdin)
    assert ended.code == 10
    assert "resource.tenant" in ended.out


# ── One on each line ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("paths", "code"),
    [
        (["/health", "/health"], 0),
        (["/health", "/asked"], 11),
        (["/asked", "/closed", "/health"], 10),
    ],
)
def test_the_exit_code_for_many_requests_is_the_most_restrictive_outcome(run, policy, paths, code):
    ended = run("decide", policy, "-r", "-", "--format", "json", stdin=b"\n".join(map(ask, paths)))
    assert ended.code == code
    assert len(ended.lines) == len(paths)


def test_requests_on_lines_are_answered_in_order(run, policy, tmp_path):
    (tmp_path / "requests.jsonl").write_bytes(b"\n".join(ask(path) for path, _, _ in OUTCOMES) + b"\n\n")
    ended = run("decide", policy, "-r", "requests.jsonl", "--format", "json")
    assert [answer["outcome"] for answer in ended.lines] == [outcome for _, outcome, _ in OUTCOMES]


def test_requests_on_lines_are_answered_with_line_numbers_as_text(run, policy):
    ended = run("decide", policy, "-r", "-", stdin=ask("/health") + b"\n\n" + ask("/closed"))
    assert ended.out == '1: allow\n3: deny by guard "closed"\n'


def test_a_broken_line_affects_only_its_own_answer(run, policy):
    stdin = b"\n".join([ask("/health"), b"{", b'{"usr": {}}', ask("/health")])
    ended = run("decide", policy, "-r", "-", "--format", "json", stdin=stdin)
    assert ended.code == 1
    assert [answer.get("outcome") for answer in ended.lines] == ["allow", None, None, "allow"]
    assert ended.lines[1]["error"]["line"] == 2
    assert ended.lines[2]["error"]["member"] == "usr"


def test_a_request_over_several_lines_is_read_as_a_single_request(run, policy):
    stdin = json.dumps(json.loads(ask("/health")), indent=2).encode()
    ended = run("decide", policy, "-r", "-", "--format", "json", stdin=stdin)
    assert (ended.code, ended.json["outcome"]) == (0, "allow")


def test_a_single_request_on_stdin_is_answered_without_a_line_number(run, policy):
    assert run("decide", policy, "-r", "-", stdin=ask("/health")).out == "allow\n"


# ── What is broken ────────────────────────────────────────────────────────────────────────────

BROKEN_REQUESTS = [
    (b"", "no request in `request.json`", None),
    (b" \n ", "no request in `request.json`", None),
    (b"{", "`request.json`: not valid JSON at line 1", None),
    (b"[]", "`request.json`: a request must be an object", None),
    (b"\xff\xfe", "`request.json`: not valid UTF-8", None),
    (b"\x00\x01\x02", "`request.json`: not valid JSON", None),
    (b"{}\n{}", "more than one document in `request.json`", None),
    (b'{"request": {"method": "GET", "path": "/"}, "usr": {}}', "`request.json` at `usr`", "usr"),
    (
        b'{"request": {"method": "GET", "path": "/"}, "user": {"roles": []}}',
        "`request.json` at `user.roles`",
        "user.roles",
    ),
    (b'{"request": {"method": "GET", "path": "/"}, "agent": 5}', "`request.json` at `agent`", "agent"),
    (b"{}", "`request.json`", None),
]


@pytest.mark.parametrize(("data", "message", "member"), BROKEN_REQUESTS)
@pytest.mark.parametrize("command", ["decide", "explain"])
def test_the_error_names_the_invalid_member_of_a_request(run, policy, tmp_path, command, data, message, member):
    (tmp_path / "request.json").write_bytes(data)
    ended = run(command, policy, "--request", "request.json", "--format", "json")
    assert ended.code == 1
    assert message in ended.err
    assert ended.json["error"]["kind"] == "request"
    assert ended.json["error"].get("member") == member


def test_a_missing_request_is_an_error(run, policy):
    ended = run("decide", policy, "--request", "nowhere.json")
    assert (ended.code, ended.out) == (1, "")
    assert (
        ended.err
        == "error: `nowhere.json`: no such file or directory\nhint: paths are relative to the current folder\n"
    )


def test_a_folder_as_request_is_an_error(run, policy):
    assert run("decide", policy, "--request", ".").err == "error: `.`: is a directory\n"


def test_empty_stdin_as_request_is_an_error(run, policy):
    assert run("decide", policy, "--request", "-").err == "error: no request in stdin\n"


def test_explain_rejects_more_than_one_request(run, policy):
    ended = run("explain", policy, "--request", "-", stdin=ask("/health") + b"\n" + ask("/health"))
    assert ended.code == 1
    assert ended.err.startswith("error: more than one request in stdin\n")


@pytest.mark.parametrize("command", ["decide", "explain"])
def test_a_policy_with_errors_is_not_used_for_decisions(run, tmp_path, command):
    (tmp_path / "bad.policy").write_text("anyone { may GET /health when nonsense }\n")
    ended = run(command, "bad.policy", "--request", "-", "--format", "json", stdin=ask("/health"))
    assert ended.code == 1
    assert ended.json["error"]["kind"] == "policy"
    assert ended.json["error"]["diagnostics"][0]["file"] == "bad.policy"
    assert "bad.policy:1:" in ended.err


@pytest.mark.parametrize("content", ["{", "[]", '{"entities": 5}', '{"entities": [{"type": "user"}]}', '{"other": []}'])
def test_broken_entities_are_an_error(run, policy, tmp_path, content):
    (tmp_path / "entities.json").write_text(content)
    ended = run("decide", policy, "-e", "entities.json", "-r", "-", "--format", "json", stdin=ask("/health"))
    assert ended.code == 1
    assert ended.json["error"]["kind"] == "entities"
    assert "entities.json" in ended.err


def test_missing_entities_are_an_error(run, policy):
    ended = run("decide", policy, "-e", "nowhere.json", "-r", "-", stdin=ask("/health"))
    assert ended.code == 1
    assert "nowhere.json" in ended.err
    assert "internal" not in ended.err


def test_decide_rejects_a_folder_without_policies(run, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = run("decide", "empty", "--request", "-", stdin=ask("/health"))
    assert ended.code == 1
    assert ended.err.startswith("error: no policies in `empty`\n")


def test_a_missing_policy_is_an_error(run):
    ended = run("decide", "nowhere.policy", "--request", "-", stdin=ask("/health"))
    assert ended.code == 1
    assert "nowhere.policy" in ended.err
    assert "internal" not in ended.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_request_is_an_error(run, policy, tmp_path):
    (tmp_path / "request.json").write_bytes(ask("/health"))
    (tmp_path / "request.json").chmod(0)
    assert run("decide", policy, "--request", "request.json").err == "error: `request.json`: permission denied\n"


@pytest.fixture
def failing_engine(monkeypatch):
    def fail(*_: object) -> None:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr("policyengine.compiler.evaluator.Evaluator.plan", fail)


def test_an_internal_failure_is_a_deny_and_reported_in_one_line(run, policy, failing_engine):
    ended = run("decide", policy, "--request", "-", "--format", "json", stdin=ask("/health"))
    assert (ended.code, ended.json["outcome"], ended.json["gate"]) == (10, "deny", "failure")
    assert ended.err == "error: a decision failed and was denied: ValueError: a mistake of ours\n"


def test_traceback_shows_where_a_decision_failed(run, policy, failing_engine):
    ended = run("decide", policy, "--request", "-", "--traceback", stdin=ask("/health"))
    assert "Traceback (most recent call last)" in ended.err


# ── Entities that a policy cannot read ────────────────────────────────────────────────────────


def with_alice(tmp_path, **attributes):
    row = {"type": "user", "id": "alice", "attributes": attributes}
    (tmp_path / "entities.json").write_text(json.dumps({"entities": [row]}))
    return "entities.json"


def test_a_misspelled_attribute_is_reported(run, project, tmp_path):
    ended = run("decide", project, "-r", "-", "-e", with_alice(tmp_path, rolles=["writer"]), stdin=ask("/health"))
    assert ended.out == "allow\n"
    assert ended.err == (
        'warning: `entities.json`: user "alice": the policy does not declare `rolles`; did you mean `roles`?\n'
    )


def test_an_attribute_of_the_wrong_type_is_reported(run, project, tmp_path):
    ended = run("decide", project, "-r", "-", "-e", with_alice(tmp_path, roles="writer"), stdin=ask("/health"))
    assert ended.err == (
        'warning: `entities.json`: user "alice": `roles` is unknown: expected set<string>, got string\n'
    )


def test_attributes_that_the_policy_does_not_declare_cause_no_warning(run, project, tmp_path):
    entities = with_alice(tmp_path, roles=["writer"], shoe_size=43, tenant=None)
    assert run("decide", project, "-r", "-", "-e", entities, stdin=ask("/health")).err == ""


def test_a_misspelled_entity_type_is_reported_once(run, project, tmp_path):
    rows = [{"type": "usr", "id": id_} for id_ in "ab"]
    (tmp_path / "entities.json").write_text(json.dumps({"entities": rows}))
    ended = run("decide", project, "-r", "-", "-e", "entities.json", stdin=ask("/health"))
    assert ended.err == 'warning: `entities.json`: usr "a": the policy does not declare `usr`; did you mean `user`?\n'


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[]", "`e.json`: expected an object, got list", 'write `{"entities": [{'),
        ('{"users": []}', "`e.json`: unknown member `users`", 'write `{"entities": [{'),
        (
            '{"entities": [{"type": "user", "id": "a", "roles": []}]}',
            "`e.json`: unknown member `entities[0].roles`",
            "put facts about an entity under `attributes`",
        ),
        (
            '{"entities": [{"type": "user", "id": "a", "in": ["sales"]}]}',
            "`e.json`: `entities[0].in[0]` must be an object, got string",
            'write `{"type": "team", "id": "sales"}`',
        ),
        (
            '{"entities": [{"type": "user", "id": "a"}, {"type": "user", "id": "a"}]}',
            '`e.json` at `entities[1]`: user "a" is given twice',
            "keep one row of each entity",
        ),
    ],
)
def test_a_broken_entities_file_is_reported_with_a_hint(run, project, tmp_path, text, message, hint):
    (tmp_path / "e.json").write_text(text)
    ended = run("decide", project, "-r", "-", "-e", "e.json", stdin=ask("/health"))
    assert (ended.code, ended.out) == (1, "")
    first, second = ended.err.splitlines()
    assert first == f"error: {message}"
    assert second.startswith(f"hint: {hint}")


def test_a_missing_entities_file_is_reported_in_one_line(run, project):
    ended = run("decide", project, "-r", "-", "-e", "nowhere.json", stdin=ask("/health"))
    assert (ended.code, ended.err) == (
        1,
        "error: `nowhere.json`: no such file or directory\nhint: paths are relative to the current folder\n",
    )


def test_a_denial_of_an_unknown_agent_suggests_explain(run, project):
    stranger = json.dumps({"request": {"method": "GET", "path": "/documents"}, "agent": {"id": "nobody"}}).encode()
    assert "`policyengine explain`" in run("decide", project, "-r", "-", stdin=stranger).out


def test_decide_and_explain_describe_a_rejected_token(run, tmp_path):
    (tmp_path / "p.policy").write_text(POLICY_OF_TOKENS)
    (tmp_path / "login.json").write_text('{"keys": []}')
    (tmp_path / "identity.toml").write_text('[issuers.acme]\nkeys = "login.json"')
    asked = {"request": {"method": "GET", "path": "/"}, "credentials": {"authorization": f"Bearer {token(aud='x')}"}}
    (tmp_path / "request.json").write_text(json.dumps(asked))
    for command in ("decide", "explain"):
        ended = run(command, tmp_path, "--identity", tmp_path / "identity.toml", "--request", tmp_path / "request.json")
        assert ended.code == 10
        *_, code, says, _, has = ended.out.splitlines()
        assert code == "  code: unknown_key, see docs/identity.md"
        assert says.startswith("  the token has: typ `at+jwt`, kid `ec`, iss ")
        assert has.endswith(" and audience `payments-api`")
        assert token(aud="x").split(".")[1] not in ended.out


@pytest.mark.parametrize("options", [("--request", "nope"), ("--request", "-", "--identity", "nope"), ("-e", "nope")])
def test_a_missing_file_has_a_hint(run, project, options):
    ended = run("decide", "project", *options, *(() if "--request" in options else ("--request", "-")), stdin=b"{}")
    assert "`nope`: no such file or directory\nhint: paths are relative to the current folder" in ended.err


def test_explain_without_an_issuer_does_not_blame_the_issuer_for_an_unknown_chain(run, tmp_path):
    (tmp_path / "a.policy").write_text(
        "issuer acme { records chains }\ndelegation { depth <= 2 }\nscope x { GET /x }\nuser any { may x }\n"
        'agent "b" { issued by acme   acts for any user   may x }\n'
    )
    question = json.dumps({"request": {"method": "GET", "path": "/x"}, "agent": {"id": "b"}}).encode()
    out = run("explain", "a.policy", "--request", "-", stdin=question).out
    assert "`chain.depth` is unknown: the caller has no issuer that records chains" in out
