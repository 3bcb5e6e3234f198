"""Paths in another case: what closes covers them, what opens and what is taken out does not, unless it says so."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.check import check_text
from policyengine.runtime import paths
from policyengine.runtime.endpoints import HttpEndpoint
from policyengine.source import Source, Span
from policyengine.spec.match_endpoint import match_pattern
from tests.spec.deciding import codes, decide, kernel, question, spending, unknown, verdict

SPAN = Span(Source("test", ""), 0, 0)
OPEN = "anyone { may GET|POST /** }\n"
IGNORING = "paths ignore case\n"


# ── The law ───────────────────────────────────────────────────────────────────────────────────

literals = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,5}", fullmatch=True) | st.sampled_from(["class", "files", "Is"])
segments = st.builds(k.Segment, literals) | st.builds(
    k.Segment, st.just("") | literals, st.just(True), st.just("") | literals, st.just("id")
)
patterns = st.builds(lambda one, rest: k.HttpPattern(None, (one,), rest, span=SPAN), segments, st.booleans())
ways = st.sampled_from(
    [str.upper, str.lower, str.title, str.casefold, str.swapcase, lambda c: {"i": "ı", "I": "ı"}.get(c, c),
     lambda c: {"i": "İ", "I": "İ"}.get(c, c)]
)  # fmt: skip


@given(patterns, literals, st.lists(ways, min_size=30, max_size=30), st.booleans())
def test_a_guard_covers_every_letter_case_of_its_path(pattern, middle, each, sharp):
    (segment,) = pattern.segments
    text = f"{segment.prefix}{middle if segment.wild else ''}{segment.suffix}"
    assert match_pattern(pattern, HttpEndpoint("GET", f"/{text}", (text,))) is not None
    other = "".join(way(char) for way, char in zip(each, text, strict=False))
    other = re.sub("ss", "ß", other, count=1, flags=re.IGNORECASE) if sharp else other
    canonical = paths.canonical_path("/" + quote(other))
    if isinstance(canonical, paths.CanonicalPath):
        endpoint = HttpEndpoint("GET", canonical.path, canonical.segments)
        assert match_pattern(k.with_folding(pattern, "full"), endpoint) is not None


# ── Guards, doors and `except` ────────────────────────────────────────────────────────────────

SECRET = OPEN + 'guard "secret" on /files/secret/** { deny }\n'
SPELLINGS = [
    "/files/SECRET/a", "/Files/secret", "/FILES/SECRET/a/b", "/fıles/secret", "/f%C4%B1les/Secret", "/files/%53ECRET",
    "/files/s%45cret", "/%46iles/secret",
]  # fmt: skip


@pytest.mark.parametrize("path", ["/files/secret/a", *SPELLINGS])
def test_a_path_in_another_case_does_not_bypass_a_guard(path: str):
    assert verdict(decide(SECRET, question(f"GET {path}"))) == 'deny by "secret"'


@pytest.mark.parametrize("path", ["/files/secrets/a", "/files/secre", "/file/SECRET", "/files/SECRETS"])
def test_a_guard_covers_no_other_path(path: str):
    assert verdict(decide(SECRET, question(f"GET {path}"))) == "allow"


@pytest.mark.parametrize("written", ["/Files/Secret/**", "/FILES/secret/**", "/files/{x}ret/**", "/files/SEC{x}/**"])
def test_a_guard_pattern_in_any_case_covers_every_case_of_the_path(written: str):
    policy = OPEN + f'guard "secret" on {written} {{ deny }}\n'
    assert {verdict(decide(policy, question(f"GET {path}"))) for path in SPELLINGS} == {'deny by "secret"'}


@pytest.mark.parametrize("path", ["/NOTES/7", "/Notes", "/notes/x/SECRET"])
def test_a_grant_matches_paths_case_sensitively(path: str):
    policy = "anyone { may GET /notes, GET /notes/{id}, GET /notes/x/secret }\n"
    assert verdict(decide(policy, question("GET /notes/7"))) == "allow"
    assert not decide(policy, question(f"GET {path}")).allowed


def test_except_matches_paths_case_sensitively():
    policy = OPEN + 'guard "all" on /** except /health, /docs/** { deny }\n'
    assert [path for path in ("/health", "/docs/a", "/HEALTH", "/Docs/a", "/docs/A")
            if decide(policy, question(f"GET {path}")).allowed] == ["/health", "/docs/a", "/docs/A"]  # fmt: skip


def test_methods_are_case_sensitive():
    assert verdict(decide(SECRET.replace("on /", "on POST /"), question("GET /files/SECRET/a"))) == "allow"
    assert verdict(decide(OPEN, question("get /files"))) == "deny by malformed_path"


@pytest.mark.parametrize("limit", ['rate "few" per request.ip on /pay/{id} { 1/1m }',
                                   'budget "few" per request.ip on /Pay/* { count <= 1 within 1h }'])  # fmt: skip
@pytest.mark.parametrize("path", ["/pay/7", "/PAY/7"])
def test_rates_and_budgets_match_paths_case_insensitively(path: str, limit: str):
    asked = question(f"GET {path}", request={"ip": "10.0.0.1"})
    assert [one.name for one in spending(OPEN + limit, asked)[1].limits] == ["few"]


@pytest.mark.parametrize(
    ("limit", "counts"),
    [
        ('rate "few" per request.path { 1/1m }', 2),
        ('rate "few" per (request.ip, params.dir) on /files/{dir}/{id: file} { 1/1m }', 2),
        ('budget "few" per params.dir on /files/{dir}/{id: file} { count <= 1 within 1h }', 2),
        ('rate "few" per params.id on /files/{dir}/{id: file} { 1/1m }', 3),  # an id is another one in another case
    ],
)
def test_a_path_in_another_case_shares_the_count(limit: str, counts: int):
    policy = f"entity file {{ }}\n{OPEN}{limit}\n"
    paths = ["/files/a/x", "/FILES/a/x", "/files/A/x", "/files/%61/x", "/files/a/X", "/files/b/y"]
    asked = [question(f"GET {path}", request={"ip": "10.0.0.1"}) for path in paths]
    keys = {one.charge.key for each in asked for one in spending(policy, each)[1].limits}
    assert len(keys) == counts


# ── `paths ignore case` ───────────────────────────────────────────────────────────────────────


def test_paths_ignore_case_makes_grants_and_except_ignore_the_case_of_ascii_letters():
    policy = IGNORING + "anyone { may GET /notes/{id}, GET /Health }\n"
    asked = ["/notes/7", "/NOTES/7", "/Notes/A", "/health", "/hEALTH", "/notes", "/nötes/7", "/hea%C4%B1th"]
    assert [path for path in asked if decide(policy, question(f"GET {path}")).allowed] == asked[:5]
    policy = IGNORING + OPEN + 'guard "all" on /** except /f{id}s { deny }\n'
    asked = ["/fiddles", "/FiddleS", "/FS", "/f", "/fıddles", "/fiddleß"]
    assert [path for path in asked if decide(policy, question(f"GET {path}")).allowed] == [
        "/fiddles",
        "/FiddleS",
        "/fıddles",
    ]


def test_paths_ignore_case_does_not_fold_non_ascii_letters_in_grants():
    policy = IGNORING + "anyone { may GET /files/{id}, GET /class }\n"
    assert not any(decide(policy, question(f"GET {path}")).allowed for path in ("/fıles/1", "/claß", "/CLAß"))


def test_paths_ignore_case_applies_to_the_endpoints_that_its_package_declares():
    common = "package common\nexport scope notes { GET /notes }\n"
    importing = "package app\nimport common\nissuer acme { scopes none }\nuser any { may common.notes, GET /own }\n"
    asked = {"user": {"id": "alice"}, "credential": {"issuer": "acme"}}

    def opened(*texts: str) -> list[str]:
        found = kernel(*texts)
        return [path for path in ("/NOTES", "/OWN") if decide(found, question(f"GET {path}", **asked)).allowed]

    ignoring = [
        text.replace("\n", "\npaths ignore case\n", 1)
        if "import" not in text
        else text.replace("import common\n", "import common\npaths ignore case\n")
        for text in (importing, common)
    ]
    assert opened(importing, common) == []
    assert opened(ignoring[0], common) == ["/OWN"]
    assert opened(importing, ignoring[1]) == ["/NOTES"]
    assert opened(*ignoring) == ["/NOTES", "/OWN"]


def test_a_package_that_repeats_the_setting_is_an_error():
    assert codes(IGNORING + IGNORING + OPEN) == {"E405"}


# ── What patterns bind ────────────────────────────────────────────────────────────────────────

FILES = """
entity file { owner: string   locked: bool }
entity user { }
scope files { GET /files/{id: file} }
issuer acme { scopes none }
"""
ROWS = {"file a": {"owner": "alice", "locked": False}, "file A": {"owner": "alice", "locked": True}}
ALICE = {"user": {"id": "alice"}, "credential": {"issuer": "acme"}}


def test_a_guard_binds_a_resource_from_a_path_in_any_case_with_the_id_as_sent():
    policy = FILES + 'user any { may GET /** }\nguard "locked" on files { deny when resource.locked  audit full }\n'
    asked = {
        path: decide(policy, question(f"GET {path}", **ALICE), ROWS) for path in ("/files/a", "/FILES/a", "/FILES/A")
    }
    assert {path: verdict(one) for path, one in asked.items()} == {
        "/files/a": "allow", "/FILES/a": "allow", "/FILES/A": 'deny by "locked"',
    }  # fmt: skip
    assert all(one.obligations or not one.allowed for one in asked.values())


def test_a_grant_binds_a_resource_only_from_an_exact_path():
    policy = FILES + 'user any { may GET /** when resource.owner == user.id }\nguard "g" on files { audit full }\n'
    assert decide(policy, question("GET /files/a", **ALICE), ROWS).allowed
    denied = decide(policy, question("GET /FILES/a", **ALICE), ROWS)
    assert verdict(denied) == "deny by default"
    assert unknown(denied) == {"resource"}


def test_a_grant_binds_a_resource_in_any_ascii_case_with_paths_ignore_case():
    policy = IGNORING + FILES + "user any { may GET /** when resource.owner == user.id }\n"
    assert decide(policy, question("GET /FILES/a", **ALICE), ROWS).allowed
    assert not decide(policy, question("GET /fıles/a", **ALICE), ROWS).allowed


def test_with_binds_for_guards_in_any_case():
    facts = "entity thing { }\nfacts on POST /things { body.id: string }\n"
    scope = "scope things { POST /things with resource = thing(body.id) }\nissuer acme { scopes none }\n"
    policy = facts + scope + 'user any { may POST /** }\nguard "own" on things { require resource == thing "7" }\n'
    asked = {body: decide(policy, question("POST /THINGS", body={"id": body}, **ALICE)) for body in ("7", "8")}
    assert {body: verdict(one) for body, one in asked.items()} == {"7": "allow", "8": 'deny by "own"'}


def test_a_capture_that_would_split_a_character_is_unknown():
    policy = OPEN + 'guard "named" on /s{name} { require params.name != "x" }\n'
    assert verdict(decide(policy, question("GET /sy"))) == "allow"
    cut = decide(policy, question("GET /%C3%9Fy"))
    assert (verdict(cut), unknown(cut)) == ('deny by "named"', {"params.name"})


@pytest.mark.parametrize(
    "text",
    [
        "entity a { }\nentity b { }\nanyone { may GET /x/{id: a}, GET /X/{id: b} }\n",
        "anyone { may GET /x/{id}/*, GET /X/*/{id} }\n",
    ],
)
def test_two_spellings_of_a_path_that_bind_differently_are_an_error(text: str):
    assert codes(text) & {"E320", "E321"}


def test_a_guard_reads_facts_declared_for_the_path_in_another_case():
    policy = (
        "facts on POST /pay { body.amount: number }\n"
        + OPEN
        + 'guard "small" on POST /pay { require body.amount < 10 }\n'
    )
    asked = {amount: decide(policy, question("POST /PAY", body={"amount": amount})) for amount in (7, 70)}
    assert {amount: verdict(one) for amount, one in asked.items()} == {7: "allow", 70: 'deny by "small"'}


def test_facts_of_different_types_at_two_spellings_of_a_path_are_an_error():
    assert "E217" in codes("facts on /pay { body.a: number }\nfacts on /Pay { body.a: string }\n" + OPEN)


# ── History ───────────────────────────────────────────────────────────────────────────────────


def test_history_watches_paths_in_any_case():
    found = kernel(OPEN + 'guard "g" on /pay { require no POST /freeze within 1h }\n')
    (watch,) = found.watches
    assert watch.event.place.patterns is not None
    assert [one.folding for one in watch.event.place.patterns if isinstance(one, k.HttpPattern)] == ["full"]


def test_history_keys_ignore_the_case_of_paths():
    found = kernel(OPEN + 'guard "g" on /pay/** { warn when count of GET /pay/** within 1h per (request.path) > 3 }\n')
    keys = {one.key for path in ("/pay/a", "/PAY/A", "/pay/%41")
            for one in spending(found, question(f"GET {path}"))[1].records}  # fmt: skip
    assert len(keys) == 1


# ── Approvals ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/things", "/THINGS"])
def test_an_approval_binds_the_facts_of_with_for_a_path_in_any_case(path: str):
    policy = (
        "entity user { roles: set<string> }\nfacts on POST /things { body.kind: string?  context.kind: string? }\n"
        + OPEN
    )
    policy += "scope things { POST /things with context.kind = lower(body.kind) }\n"
    policy += 'guard "ask" on things { confirm by role boss bound to (request.path) when context.kind == "x" }\n'
    asked = [decide(policy, question(f"POST {path}", body={"kind": kind})) for kind in ("x", "X")]
    assert len({one.remedies[0].binding for one in asked}) == 2


# ── Messages and lints ────────────────────────────────────────────────────────────────────────


def test_an_except_that_excludes_every_endpoint_is_an_error():
    assert codes(OPEN + 'guard "g" on /a/** except /a/** { deny }\n') == {"E318"}


def test_check_reports_no_missing_grant_for_a_guard_in_another_case():
    policy = "anyone { may GET /Files/{id} }\n" + 'guard "g" on /files/{id} { deny when request.size > 1 }\n'
    assert "W521" not in {one.code for one in check_text(policy)}
