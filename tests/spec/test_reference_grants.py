"""How a request is decided, steps 1 to 4: the path, identity, the door, the user."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.spec.deciding import NOW, bot, chain, decide, gates, hop, kernel, question, unknown, verdict

NOTES = """
entity user { roles: set<string> }
scope notes.read  as "read:notes"  { GET /notes/** }
scope notes.write as "write:notes" { include notes.read  POST /notes/{id} }
issuer acme { }
issuer other { }
issuer internal { scopes none }
user any { may notes.read }
user where user.roles has "clerk" { may notes.write }
agent "bot" { issued by acme, internal  acts for any user  may notes.write }
anyone { may GET /health }
"""
CLERK = {"user alice": {"roles": ["clerk"]}}
READ, WRITE = {"scopes": ["read:notes"]}, {"scopes": ["write:notes"]}

# ── 1. Normalise ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    ["/health/..", "/a//b", "//health", "/./health", "/a%2fb", "/a%5Cb", "/a\\b", "/a%00", "/a;b", "/a%252fb", "/a%",
     "/%ff", "/%c0%af", "/a?b", "/a#b", "health", "/a\nb", "/a%0ab", "/a."],
)  # fmt: skip
def test_a_non_canonical_path_is_denied_before_any_other_gate(path):
    policy = 'anyone { may GET /**, POST /** }\nguard "all" { deny  audit full }'
    decision = decide(policy, question(f"GET {path}"))
    assert verdict(decision) == "deny by malformed_path"
    assert gates(decision) == ["malformed_path"]
    assert decision.obligations == decision.remedies == decision.unknown == ()


@pytest.mark.parametrize(
    "override",
    [{"headers": {"X-HTTP-Method-Override": "DELETE"}}, {"headers": {"x-http-method": "PUT"}},
     {"headers": {"X-Method-Override": "PUT"}}, {"query": {"_method": "DELETE"}}],
)  # fmt: skip
def test_a_method_override_header_or_parameter_makes_the_request_malformed(override):
    asked = question("POST /x", request=override)
    assert verdict(decide("anyone { may POST /x }", asked)) == "deny by malformed_path"


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("GET /notes/7", True), ("GET /notes/7/", True), ("GET /notes", True), ("HEAD /notes/7", True),
        ("GET /Notes/7", False), ("OPTIONS /notes/7", False), ("DELETE /notes/7", False),
        ("GET /notes/a/b/c", True), ("GET /notesx", False), ("GET /", False),
        ("POST /notes/7", True), ("POST /notes", False), ("POST /notes/7/x", False), ("POST /notes/%37", True),
    ],
)  # fmt: skip
def test_patterns_match_the_whole_path_its_case_and_the_method(asked, allowed):
    assert decide(NOTES, question(asked, **bot(**WRITE)), CLERK).allowed is allowed


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/m/{id}:predict", "/m/7:predict", True), ("/m/{id}:predict", "/m/:predict", False),
        ("/m/{id}:predict", "/m/7:Predict", False), ("/m/v{id}", "/m/v", False), ("/m/v{id}", "/m/v1", True),
        ("/m/*", "/m/x", True), ("/m/*", "/m", False), ("/m/*", "/m/", False), ("/m/**", "/m", True),
        ("/m/**", "/m/", True),
        ("/m/**", "/", False), ("/**", "/", True), ("/m/{id}/**", "/m", False), ("/m/{id}/**", "/m/7", True),
    ],
)  # fmt: skip
def test_a_capture_matches_one_non_empty_segment_and_a_rest_matches_any_number(pattern, path, matches):
    assert decide(f"anyone {{ may GET {pattern} }}", question(f"GET {path}")).allowed is matches


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"])
def test_any_means_every_method_in_a_guard_and_standard_methods_in_may(method):
    assert decide("anyone { may ANY /x }", question(f"{method} /x")).allowed is (
        method in ("GET", "POST", "PUT", "PATCH", "DELETE")
    )
    policy = f'anyone {{ may {method} /x }}\nguard "g" on ANY /x {{ deny }}'
    assert verdict(decide(policy, question(f"{method} /x"))) == 'deny by "g"'


@pytest.mark.parametrize(
    ("pattern", "tool", "covered"),
    [
        ("TOOL mail/*", "TOOL mail/send", True), ("TOOL mail/*", "TOOL mailer/send", False),
        ("TOOL *", "TOOL mail/send", True), ("TOOL *", "TOOL send", True), ("TOOL send", "TOOL mail/send", False),
        ("TOOL mail/send", "TOOL send", False), ("TOOL mail/send", "TOOL mail/Send", False),
    ],
)  # fmt: skip
def test_tool_names_are_qualified_by_their_server(pattern, tool, covered):
    assert decide(f"anyone {{ may {pattern} }}", question(tool)).allowed is covered


# ── 2. Identity ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("who", "gate"),
    [
        ({}, "identity"),
        ({"agent": {}}, "identity"),
        ({"agent": {"id": "bot"}}, "identity"),
        (bot("stranger", **READ), "identity"),
        (bot(issuer="other", **READ), "identity"),
        (bot(issuer="nobody", **READ), "identity"),
        (bot(user=None, **READ), "identity"),
        ({**bot(**READ), "user": {"id": ""}}, "identity"),
        ({**bot(**READ), "user": {"id": 7}}, "identity"),
        (bot("BOT", **READ), "identity"),
        ({**bot(**READ), "pending": ["credential.issuer"]}, "identity"),
    ],
)  # fmt: skip
def test_a_caller_that_no_block_accepts_sees_only_the_identity_gate(who, gate):
    policy = (
        NOTES
        + 'guard "g" { deny message "secret"  audit full  redact body.x  confirm by user }\nfacts { body.x: int? }'
    )
    decision = decide(policy, question("GET /notes/7", **who))
    assert gates(decision) == [gate]
    assert decision.remedies == decision.unknown == ()
    assert [one.kind for one in decision.obligations] == ["audit"]


@pytest.mark.parametrize(
    ("agent", "credential", "accepted"),
    [
        ({"issuer": "acme"}, {"issuer": "acme"}, True),
        ({}, {"issuer": "acme"}, True),
        ({"issuer": ""}, {"issuer": "acme"}, True),
        ({"issuer": "acme"}, {}, True),
        ({"issuer": "acme"}, {"issuer": "internal"}, False),
        ({"issuer": "acme"}, {"issuer": "other"}, False),
        ({"issuer": "acme"}, {"issuer": ["acme"]}, False),
        ({"issuer": 5}, {"issuer": "acme"}, False),
    ],
)
def test_different_issuers_of_agent_and_credential_are_denied(agent, credential, accepted):
    who = {"agent": {"id": "bot", **agent}, "user": {"id": "alice"}, "credential": {**READ, **credential}}
    decision = decide(NOTES, question("GET /notes/7", **who), CLERK)
    assert decision.allowed is accepted
    assert accepted or gates(decision) == ["identity"]


def test_an_unidentified_caller_sees_no_unknown_facts_of_obligations():
    policy = "facts { context.n: int }\n" + NOTES + 'guard "g" { audit full when context.n > 1 }'
    decision = decide(policy, question("GET /notes/7", **bot("stranger", **READ)))
    assert [one.kind for one in decision.obligations] == ["audit"]
    assert (gates(decision), decision.unknown) == (["identity"], ())


REQUIREMENTS = [
    ("credential { kind in [jwt, mtls] }", {"credential": {"kind": "jwt"}}, {"credential": {"kind": "api_key"}}),
    ("credential { lifetime <= 15m }", {"credential": {"lifetime": "15m"}}, {"credential": {"lifetime": "15m1s"}}),
    ("credential { age <= 5m }", {"credential": {"age": "5m"}}, {"credential": {"age": "301s"}}),
    ("credential { bound }", {"credential": {"bound": True}}, {"credential": {"bound": False}}),
    ("attested by lab", {"attestation": {"verified": True, "by": "lab"}},
    {"attestation": {"verified": True, "by": "me"}}),
    ("attested by lab", {"attestation": {"verified": True, "by": "lab"}},
    {"attestation": {"verified": False, "by": "lab"}}),
    ("attested by lab", {"attestation": {"verified": True, "by": "lab"}}, {"attestation": {"by": "lab"}}),
    ("valid from 2027-01-04", {}, None),
    ("valid until 2027-01-05", {}, None),
]  # fmt: skip


def required(requirement: str) -> str:
    return f"""
    issuer acme {{ scopes none }}
    attester lab {{ }}
    users unrestricted
    agent "bot" {{ issued by acme  acts for any user  {requirement}  may GET /x }}
    """


@pytest.mark.parametrize(("requirement", "good", "bad"), REQUIREMENTS)
def test_a_block_whose_requirement_fails_does_not_apply(requirement, good, bad):
    policy = required(requirement)
    assert decide(policy, question("GET /x", **{**bot(), **good})).allowed
    if bad is not None:
        assert gates(decide(policy, question("GET /x", **{**bot(), **bad}))) == ["identity"]
        assert gates(decide(policy, question("GET /x", **bot()))) == ["identity"]


@pytest.mark.parametrize(
    ("moment", "stands"),
    [(datetime(2027, 1, 3, 23, 59, tzinfo=UTC), False), (datetime(2027, 1, 4, tzinfo=UTC), True),
     (datetime(2027, 1, 4, 23, 59, tzinfo=UTC), True), (datetime(2027, 1, 5, tzinfo=UTC), False)],
)  # fmt: skip
def test_validity_includes_its_start_and_excludes_its_end(moment, stands):
    policy = required("valid from 2027-01-04 until 2027-01-05")
    assert decide(policy, question("GET /x", **bot()), now=moment).allowed is stands


def test_a_block_whose_requirement_fails_does_not_affect_other_blocks():
    policy = required("credential { bound }") + 'agent "bot" { issued by acme  acts for any user  may GET /y }'
    assert decide(policy, question("GET /y", **bot())).allowed
    decision = decide(policy, question("GET /x", **bot()))
    assert verdict(decision) == "deny by default"
    assert [(one.kind, one.need) for one in decision.remedies] == [("credential", "bound")]
    assert unknown(decision) == {"credential.bound"}


@pytest.mark.parametrize(
    ("user", "subject", "stands"),
    [(None, None, True), (None, "bot", True), (None, "alice", False), ("alice", None, False), ("alice", "bot", False),
     ("", None, True), (None, 7, False), (None, "", False)],
)  # fmt: skip
def test_acts_alone_requires_no_user_and_no_other_subject(user, subject, stands):
    policy = 'issuer acme { scopes none }\nagent "bot" { issued by acme  acts alone  may GET /x }'
    credential = {} if subject is None else {"subject": subject}
    assert decide(policy, question("GET /x", **bot(user=user, **credential))).allowed is stands


def test_an_agent_matches_by_name_group_or_condition():
    head = "issuer acme { scopes none }\nusers unrestricted\n"
    tail = " { issued by acme  acts for any user  may GET /x }"
    asked = bot()
    asked["agent"] = {"id": "bot", "issuer": "acme", "groups": ["ops"], "publisher": "acme"}
    for who in ('agent "bot"', 'agent group "ops"', 'agent where agent.publisher == "acme"'):
        assert decide(head + who + tail, question("GET /x", **asked)).allowed
    for who in (
        'agent "b"',
        'agent group "op"',
        'agent where agent.publisher == "ac"',
        'agent where agent.model == "m"',
    ):
        assert gates(decide(head + who + tail, question("GET /x", **asked))) == ["identity"]


@pytest.mark.parametrize("groups", ["ops", ["dev"], [], None, {"ops": True}, [["ops"]]])
def test_a_group_block_does_not_match_an_agent_with_missing_or_malformed_groups(groups):
    policy = "issuer acme { scopes none }\nusers unrestricted\n"
    policy += 'agent group "ops" { issued by acme  acts for any user  may GET /x }'
    asked = question("GET /x", **bot())
    asked["agent"] = {"id": "bot", "issuer": "acme", "groups": groups}
    assert not decide(policy, asked).allowed


# ── 3. Door ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("scopes", "reads", "writes"),
    [
        (["read:notes"], True, False),
        (["write:notes"], True, True),
        (["read:notes", "other"], True, False),
        ([], False, False),
        (None, False, False),
        (["notes.read"], False, False),
        (["READ:NOTES"], False, False),
        (["read:notes-only"], False, False),
        (["read:note*", "*"], False, False),
        ("read:notes", False, False),
        ("read:notes write:notes", False, False),
        (["read:notes", 7], True, False),
        ({"read:notes": True}, False, False),
        (True, False, False),
    ],
)
def test_a_scope_of_the_credential_must_carry_the_endpoint(scopes, reads, writes):
    who = bot(scopes=scopes)
    assert decide(NOTES, question("GET /notes/7", **who), CLERK).allowed is reads
    decision = decide(NOTES, question("POST /notes/7", **who), CLERK)
    assert decision.allowed is writes
    assert writes or verdict(decision) == "deny by default"


@pytest.mark.parametrize(("asked", "scopes"), [("GET", ("read:notes", "write:notes")), ("POST", ("write:notes",))])
def test_the_remedy_names_exactly_the_scopes_that_would_grant_access(asked, scopes):
    decision = decide(NOTES, question(f"{asked} /notes/7", **bot(scopes=["x"])), CLERK)
    assert [(one.kind, one.scopes) for one in decision.remedies] == [("scope", scopes)]


def test_malformed_scopes_are_named_as_the_unknown_fact():
    for scopes, named in (("read:notes", True), ([7], True), (["x"], False)):
        decision = decide(NOTES, question("GET /notes/7", **bot(scopes=scopes)))
        assert verdict(decision) == "deny by default"
        assert unknown(decision) == ({"credential.scopes"} if named else set())


def test_scopes_none_ignores_the_scopes_of_the_credential():
    for scopes in ([], ["nonsense"], None, 7):
        assert decide(NOTES, question("POST /notes/7", **bot(issuer="internal", scopes=scopes)), CLERK).allowed


def test_a_may_without_a_scope_requires_an_issuer_with_scopes_none():
    policy = "issuer acme { }\nissuer inner { scopes none }\nusers unrestricted\n"
    policy += 'agent "bot" { issued by acme, inner  acts for any user  may GET /x }'
    assert verdict(decide(policy, question("GET /x", **bot(scopes=["GET /x", "x"])))) == "deny by default"
    assert decide(policy, question("GET /x", **bot(issuer="inner"))).allowed


def test_grants_are_a_union():
    policy = "issuer acme { scopes none }\nusers unrestricted\n"
    policy += 'agent "bot" { issued by acme  acts for any user  may GET /x when agent.model == "m"\n'
    policy += "may GET /x when time > 2027-01-01 }"
    assert decide(policy, question("GET /x", **bot())).allowed


def test_an_anyone_grant_is_open_to_every_caller():
    for who in ({}, bot("stranger"), {"user": {"id": "alice"}}, {**bot("stranger"), "chain": chain(hop("x"))}):
        assert decide(NOTES, question("GET /health", **who)).allowed


def test_guards_apply_to_anyone_grants():
    assert verdict(decide(NOTES + 'guard "g" on /health { deny }', question("GET /health"))) == 'deny by "g"'


@pytest.mark.parametrize(
    ("credential", "allowed"),
    [
        ({"issuer": "acme", "scopes": ["read:notes"]}, True),
        ({"issuer": "internal"}, True),
        ({"issuer": "acme", "scopes": []}, False),
        ({"issuer": "acme"}, False),
        ({"scopes": ["read:notes"]}, False),
        ({"issuer": "nobody", "scopes": ["read:notes"]}, False),
        ({"issuer": 7, "scopes": ["read:notes"]}, False),
        ({}, False),
    ],
)
def test_a_request_without_an_agent_needs_a_user_grant_and_its_scope(credential, allowed):
    decision = decide(NOTES, question("GET /notes/7", user={"id": "alice"}, credential=credential))
    assert decision.allowed is allowed
    assert allowed or verdict(decision) == "deny by default"


# ── 4. User ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rows", "allowed"),
    [(CLERK, True), ({"user alice": {"roles": ["guest"]}}, False), ({"user alice": {"roles": "clerk"}}, False),
     ({"user alice": {}}, False), ({}, False), ({"user bob": {"roles": ["clerk"]}}, False)],
)  # fmt: skip
def test_a_user_block_must_open_the_endpoint_for_the_user_of_the_agent(rows, allowed):
    decision = decide(NOTES, question("POST /notes/7", **bot(**WRITE)), rows)
    assert verdict(decision) == ("allow" if allowed else "deny by user")


def test_the_user_grant_of_an_agent_request_needs_no_scope():
    policy = NOTES + 'user "carol" { may POST /notes/{id} }'
    assert decide(policy, question("POST /notes/7", **bot(user="carol", **WRITE)), {}).allowed


def test_users_unrestricted_waives_the_user_grant_only_for_its_own_package():
    one = """package one
    export issuer acme { scopes none }
    users unrestricted
    agent "bot" { issued by acme  acts for any user  may GET /one }"""
    two = """package two
    import one
    user "root" { may GET /two }
    agent "bot" { issued by one.acme  acts for any user  may GET /two }"""
    both = kernel(one, two)
    assert decide(both, question("GET /one", **bot())).allowed
    assert verdict(decide(both, question("GET /two", **bot()))) == "deny by user"
    assert decide(both, question("GET /two", **bot(user="root"))).allowed


def test_a_grant_of_an_unrestricted_package_waives_the_user_grant_only_if_it_opens():
    one = "package one\nexport issuer acme { scopes none }\nusers unrestricted\n"
    one += 'agent "bot" { issued by acme  acts for any user  credential { bound }  may GET /x }'
    two = 'package two\nimport one\nuser "root" { may GET /x }\n'
    two += 'agent "bot" { issued by one.acme  acts for any user  may GET /x }'
    both = kernel(one, two)
    assert decide(both, question("GET /x", **bot(bound=True))).allowed
    assert verdict(decide(both, question("GET /x", **bot(bound=False)))) == "deny by user"


def test_a_user_block_may_have_a_validity_period():
    policy = NOTES + 'user "dave" { may POST /notes/{id}  valid until 2027-01-05 }'
    asked = question("POST /notes/7", **bot(user="dave", **WRITE))
    assert decide(policy, asked).allowed
    assert verdict(decide(policy, asked, now=NOW + timedelta(days=1))) == "deny by user"


# ── All reasons, the strongest outcome ────────────────────────────────────────────────────────


def test_a_denial_lists_the_reasons_of_every_gate():
    policy = NOTES + 'guard "no" { deny }\nguard "ask" { confirm by user }'
    decision = decide(policy, question("DELETE /notes/7", **bot(**WRITE)), {})
    assert gates(decision) == ["default", "user", "guard", "guard"]
    assert [str(reason.outcome) for reason in decision.reasons] == ["deny", "deny", "deny", "confirm"]
    assert decision.gate == "default"
