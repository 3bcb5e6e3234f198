"""Rules, guards, requirements and endpoints: when each is seen, and what there is to see of it."""

import pytest

from policyengine.testing.coverage import PointKind, measure
from tests.testing.coverage.seeing import BASE, DOORS, coverage, left_out, missing
from tests.testing.running import checked

APPROVED = 'POST /docs/1 { body.n: 9, approval: { rule: "g", by: "alice" } } => allow\n'
READ, WRITE = "GET /docs/1 => not confirm\n", "POST /docs/1 { body.n: 9 } => not throttle\n"
SMALL = "POST /docs/1 { body.n: 1 } => not throttle\n"


def test_the_coverage_points_follow_from_the_kernel_before_any_run() -> None:
    found = coverage(DOORS + 'guard "g" on write { deny when body.n > 5 }', "GET /docs/1 => allow")
    assert {kind: count.total for kind, count in found.kinds.items()} == {
        PointKind.RULES: 3,  # two `may`, one `deny`
        PointKind.CONDITIONS: 3,
        PointKind.GUARDS: 2,
        PointKind.LIMITS: 0,
        PointKind.REQUIREMENTS: 4,  # `issued by` and `acts for`, each holding and failing
        PointKind.ENDPOINTS: 3,  # two of the scopes, one of the guard
    }
    kernel = checked(BASE + DOORS).kernel
    assert kernel is not None
    assert measure((), kernel).points == coverage(DOORS).points


# ── Rules ─────────────────────────────────────────────────────────────────────────────────────

TWO = """user any { may read   may write }
agent "bot" { issued by acme   acts for any user   credential { bound }   may read
  may write when user.tenant == "a" }"""


@pytest.mark.parametrize(
    ("request_", "unopened"),
    [
        (READ, ["`may write` never", '`may write when user.tenant == "a"` never']),
        (WRITE, ["`may read` never", "`may read` never"]),
        (READ + WRITE, []),
        ('POST /docs/1 { user.tenant: "b" } => deny\n' + READ, ['`may write when user.tenant == "a"` never']),
        ("POST /docs/1 { credential.bound: false } => deny\n" + READ, ['`may write when user.tenant == "a"` never']),
        (
            'POST /docs/1 { credential.scopes: ["read"] } => deny\n' + READ,
            ['`may write when user.tenant == "a"` never'],
        ),
    ],
)
def test_a_may_is_covered_when_it_granted_access(request_: str, unopened: list[str]) -> None:
    """It covers, the credential carries it, its condition is true and its block stands."""
    assert missing(TWO, request_, "granted") == [f"{words} granted a request" for words in unopened]


def test_a_may_of_anyone_is_covered_without_a_credential() -> None:
    rules = "anyone { may GET /health }"
    assert missing(rules, "GET /health => allow") == []
    assert missing(rules, "GET /docs/1 => deny") == [
        "`may GET /health` never granted a request",
        "no request for `GET /health` was decided",
    ]


@pytest.mark.parametrize(
    ("line", "request_", "words"),
    [
        ("deny when body.n > 5", SMALL, "never denied a request"),
        ("confirm by user when body.n > 5", SMALL, "never asked for a confirmation"),
        ("confirm by user", APPROVED, "never asked for a confirmation"),
        ("audit full when body.n > 5", SMALL, "never applied"),
        ("redact body.note", "POST /docs/1 { credential.scopes: absent } => deny\n", "never applied"),
    ],
)
def test_a_line_of_a_guard_is_missing_when_it_never_acted(line: str, request_: str, words: str) -> None:
    rules = f'{DOORS}guard "g" on write {{ {line} }}'
    assert f"`{line}` {words}" in missing(rules, request_)
    assert f"`{line}` {words}" not in missing(rules, WRITE)


def test_a_denied_request_covers_the_obligations_for_operators() -> None:
    rules = f'{DOORS}guard "g" on write {{ audit full   notify "us"   warn }}'
    assert missing(rules, "POST /docs/1 { credential.scopes: absent } => deny\n", "applied") == ["`warn` never applied"]


# ── Guards ────────────────────────────────────────────────────────────────────────────────────

STOPPING, PASSING = "guard `g` never stopped a request", "guard `g` never let a request pass"


@pytest.mark.parametrize(
    ("line", "request_", "unseen"),
    [
        ("deny when body.n > 5", WRITE, [PASSING]),
        ("deny when body.n > 5", SMALL, [STOPPING]),
        ("deny when body.n > 5", "POST /docs/1 => deny\n", [PASSING]),  # unknown
        ("deny when body.n > 5", READ, [STOPPING, PASSING]),  # another place
        ("deny when body.n > 5", 'POST /docs/1 { agent.issuer: "plain" } => deny\n', [STOPPING, PASSING]),
        ("confirm by user", WRITE, [PASSING]),
        ("confirm by user", APPROVED, [STOPPING]),
        ("audit full   deny when body.n > 5", SMALL, [STOPPING]),
    ],
)
def test_coverage_expects_a_guard_to_stop_and_to_pass_requests(line: str, request_: str, unseen: list[str]) -> None:
    """Where it has a say: a caller whom no block accepts is refused before."""
    assert missing(f'{DOORS}guard "g" on write {{ {line} }}', request_, "guard `g` never") == unseen


@pytest.mark.parametrize(
    ("request_", "unseen"),
    [(WRITE, ["guard `g` never had a request to which it does not apply"]), (SMALL, ["guard `g` never applied"])],
)
def test_coverage_expects_an_obligations_only_guard_to_apply_and_not_to_apply(request_: str, unseen: list[str]) -> None:
    rules = f'{DOORS}guard "g" on write {{ audit full when body.n > 5 }}'
    assert missing(rules, request_, "guard `g` never") == unseen


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("deny", ["guard `g` stops every request"]),
        ("deny when body.n > 5   deny unless body.n > 5", ["guard `g` stops every request"]),
        ("audit full", ["guard `g` always applies"]),
        ("audit full when body.n > 5", []),
        ("confirm by user", []),  # an approval lets it pass
        ("deny when body.n > 5   audit full", []),
    ],
)
def test_coverage_does_not_expect_a_guard_that_always_acts_to_pass(line: str, told: list[str]) -> None:
    assert left_out(f'{DOORS}guard "g" on write {{ {line} }}', "guard `g`") == told


# ── Requirements ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("requirement", "given"),
    [
        ("issued by acme", 'agent.issuer: "plain"'),
        ("acts for any user", "user.id: absent"),
        ("acts alone", 'user.id: "alice"'),
        ("kind in [jwt]", "credential.kind: mtls"),
        ("kind in [jwt]", "credential.kind: absent"),
        ("lifetime <= 15m", "credential.lifetime: 16m"),
        ("age <= 5m", "credential.age: 6m"),
        ("bound", "credential.bound: false"),
        ("valid until 2030-01-01", "request.ip: absent"),
    ],
)
def test_coverage_expects_a_requirement_to_hold_and_to_fail(requirement: str, given: str) -> None:
    acts = "" if requirement.startswith("acts") else "acts for any user"
    issued = "" if requirement.startswith("issued") else "issued by acme"
    whole = (
        requirement
        if requirement.partition(" ")[0] in ("issued", "acts", "valid")
        else f"credential {{ {requirement} }}"
    )
    rules = f'user any {{ may read }} agent "bot" {{ {issued} {acts} {whole} may read }}'
    when = "at 2031-01-01T00:00:00Z " if requirement.startswith("valid") else ""
    good = "given user absent\n" if requirement == "acts alone" else ""
    held, failed = f"`{requirement}` never held", f"`{requirement}` never failed"
    assert missing(rules, f"{good}GET /docs/1 => allow", f"`{requirement}`") == [failed]
    assert missing(rules, f"{when}GET /docs/1 {{ {given} }} => deny", f"`{requirement}`") == [held]


def test_a_request_of_another_agent_does_not_cover_a_requirement() -> None:
    requests = 'given agent "other" from plain GET /docs/1 => deny'
    assert "`issued by acme` never failed" in missing(DOORS, requests)


def test_coverage_expects_a_validity_period_to_fail_too_early_and_too_late() -> None:
    rules = """user "alice" { valid from 2026-01-01 until 2027-01-01   may read }
      agent "bot" { issued by acme   acts for any user   may read }"""
    request_ = "at {}-06-01T00:00:00Z GET /docs/1 => not confirm\n"
    valid = "`valid from 2026-01-01 until 2027-01-01` never"
    early, late = f"{valid} failed because a request was too early", f"{valid} failed because a request was too late"
    assert missing(rules, request_.format(2025), "valid") == [f"{valid} held", late]
    assert missing(rules, request_.format(2026), "valid") == [early, late]
    assert missing(rules, request_.format(2028), "valid") == [f"{valid} held", early]


ATTESTED = """attester lab { age <= 1h   model "small" sha256:9f2c41   model "large"   environment in ["tdx"] }
attester other { age <= 2h }
user any { may read }   agent "bot" { issued by acme   acts for any user   attested by lab, other   may read }"""
GOOD = 'attestation: { verified: true, by: lab, age: 5m, model: "large", environment: "tdx" }'


@pytest.mark.parametrize(
    ("worse", "failed"),
    [
        ("attestation.age: 2h", "`age <= 1h`"),
        ('attestation.model: "tiny"', '`model "small" sha256:9f2c41 model "large"`'),
        ('attestation.model: "small", attestation.model_hash: absent', '`model "small" sha256:9f2c41 model "large"`'),
        ("attestation.environment: absent", '`environment in ["tdx"]`'),
        ("attestation.verified: false", None),
    ],
)
def test_each_attester_requirement_is_covered_separately(worse: str, failed: str | None) -> None:
    inside = f"given {GOOD.replace(':', '', 1)}\nGET /docs/1 => allow\nGET /docs/1 {{ {worse} }} => deny"
    parts = ["`age <= 1h`", '`model "small" sha256:9f2c41 model "large"`', '`environment in ["tdx"]`']
    unseen = [words for part in parts for words in missing(ATTESTED, inside, part)]
    assert unseen == [f"{part} never failed" for part in parts if part != failed]
    assert missing(ATTESTED, inside, "attested by") == []
    assert missing(ATTESTED, inside, "age <= 2h") == [  # the word of another attester shows nothing of it
        "`age <= 2h` never held",
        "`age <= 2h` never failed",
    ]


def test_an_unused_attester_has_no_coverage_points() -> None:
    found = coverage(f"attester lab {{ age <= 1h }}{DOORS}")
    assert not [point for point in found.points if "age" in point.words]


# ── Chains ────────────────────────────────────────────────────────────────────────────────────

CHAIN = """user any { may read }
agent "first" { issued by acme   acts for any user   may read
  may delegate read to agent "bot" for 30m   may delegate read to agent "first" }
agent "bot" { issued by acme   acts for any user   may read }
delegation { depth <= 2   lifetime <= 1h   no cycles }"""
HOP = '{{ agent: "{}", issuer: "acme", age: {}, scopes: ["read"] }}'


def handed(*hops: tuple[str, str]) -> str:
    chain = ", ".join(HOP.format(*hop) for hop in hops)
    return f"GET /docs/1 {{ chain.hops: [{chain}] }} => not confirm\n"


LIMITS = ("`depth <= 2`", "`lifetime <= 1h`", "`no cycles`", "the limit `30m` of a `may delegate`")


@pytest.mark.parametrize(
    ("request_", "held", "failed"),
    [
        ("GET /docs/1 => allow\n", set(), set()),  # alone
        (handed(("first", "1m")), set(LIMITS), set()),
        (handed(("first", "31m")), set(LIMITS[:3]), {LIMITS[3]}),
        (handed(("first", "2h")), {LIMITS[0], LIMITS[2]}, {LIMITS[1], LIMITS[3]}),
        (handed(("first", "1m"), ("first", "1m")), {LIMITS[0], LIMITS[1], LIMITS[3]}, {LIMITS[2]}),
        (handed(*[("first", "1m")] * 3), {LIMITS[1], LIMITS[3]}, {LIMITS[0], LIMITS[2]}),
    ],
)
def test_only_requests_with_a_chain_cover_chain_limits(request_: str, held: set[str], failed: set[str]) -> None:
    unseen = missing(CHAIN, request_)
    assert {limit for limit in LIMITS if f"{limit} never held" not in unseen} == held
    assert {limit for limit in LIMITS if f"{limit} never failed" not in unseen} == failed


def test_a_may_delegate_is_covered_when_it_delegated() -> None:
    words = '`may delegate read to agent "bot" for 30m` never delegated anything'
    assert words in missing(CHAIN, "GET /docs/1 => allow")
    assert words in missing(CHAIN, handed(("first", "31m")))
    assert words not in missing(CHAIN, handed(("first", "1m")))


def test_hops_cover_the_rules_of_their_blocks() -> None:
    unseen = missing(CHAIN, handed(("first", "1m")))
    assert "`may read` never granted a request" not in unseen
    assert unseen.count("`issued by acme` never failed") == 2
    assert "`issued by acme` never held" not in unseen


def test_coverage_does_not_expect_an_unreachable_depth_limit_to_fail() -> None:
    rules = CHAIN.replace("depth <= 2", "depth <= 32")
    words = "`depth <= 32` can never fail: chains of more than 32 hops are refused"
    assert left_out(rules, "depth") == [words]
    assert missing(rules, "GET /docs/1 => allow", "depth") == ["`depth <= 32` never held"]


# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────

PLACES = f"""{DOORS}anyone {{ may GET /health }}
guard "g" on /docs/{{id}}, TOOL mail/* except TOOL mail/draft {{ audit full }}"""


@pytest.mark.parametrize(
    ("request_", "decided"),
    [
        ("GET /docs/1 => allow", {"GET /docs/{id: doc}", "/docs/{id}"}),
        ("GET /health => allow", {"GET /health"}),
        ("TOOL mail/send => deny", {"TOOL mail/*"}),
        ("TOOL mail/draft => deny", {"TOOL mail/draft"}),
        ('GET "/docs//1" => deny', set()),
    ],
)
def test_an_endpoint_is_covered_when_a_request_for_it_was_decided(request_: str, decided: set[str]) -> None:
    found = coverage(PLACES, request_)
    assert {p.span.text for p in found.points if p.kind is PointKind.ENDPOINTS and p in found.hits} == decided


@pytest.mark.parametrize(
    ("request_", "decided"),
    [
        ("GET /docs/a/b => allow", {"/Docs/**", "GET /**"}),
        ("GET /DOCS/a/b => allow", {"/Docs/**", "GET /**"}),
        ("GET /docs/open/x => allow", {"/docs/open/*", "GET /**"}),
        ("GET /docs/OPEN/x => allow", {"/Docs/**", "GET /**"}),  # what is taken out is what is written
    ],
)
def test_a_guard_endpoint_is_covered_in_any_case_and_its_except_only_as_written(
    request_: str, decided: set[str]
) -> None:
    rules = 'anyone { may GET /** }\nguard "g" on /Docs/** except /docs/open/* { audit full }'
    found = coverage(rules, request_)
    assert {p.span.text for p in found.points if p.kind is PointKind.ENDPOINTS and p in found.hits} == decided


def test_an_endpoint_inside_its_own_except_is_left_out() -> None:
    rules = f'{DOORS}guard "g" on TOOL mail/send, /docs/** except TOOL mail/* {{ audit full }}'
    words = "`TOOL mail/send` can never be decided by this guard: its `except` excludes all of it"
    assert left_out(rules, "mail") == [words]


def test_a_pattern_used_by_several_grants_counts_once() -> None:
    found = coverage(f'{DOORS}user where user.tenant == "b" {{ may read }}')
    assert [point.span.text for point in found.points if point.kind is PointKind.ENDPOINTS].count(
        "GET /docs/{id: doc}"
    ) == 1


# ── Cases that show nothing ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "inside",
    [
        'skip "later" GET /docs/1 => allow',
        'GET "/docs//1" => deny by malformed_path',
        'given user absent given user.tenant "a" GET /docs/1 => allow',  # cannot be asked
    ],
)
def test_an_undecided_case_covers_nothing(inside: str) -> None:
    assert coverage(DOORS, inside).count.seen == 0


def test_a_failing_case_still_adds_coverage() -> None:
    assert coverage(DOORS, "GET /docs/1 => deny").count.seen > 0


def test_coverage_is_recorded_per_case() -> None:
    found = coverage(DOORS, "GET /docs/1 => allow  POST /docs/1 => allow")
    [(first, reading), (second, writing)] = sorted(found.by_case.items())
    assert (first[:2], second[:2]) == (("main", "t"), ("main", "t"))
    assert {point.span.text for point in writing - reading} == {"POST /docs/{id: doc}"}


def test_cases_of_returns_the_cases_that_cover_a_span() -> None:
    found = coverage(DOORS, "GET /docs/1 => allow  POST /docs/1 => allow  GET /docs/2 => allow")
    [reading] = [point.span for point in found.points if point.span.text == "GET /docs/{id: doc}"]
    first, _, third = sorted(found.by_case)
    assert found.cases_of(reading) == {first, third}
