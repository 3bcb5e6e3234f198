"""Parts of conditions: which of true, false and unknown there is to see of each, and when it is seen."""

import pytest

from policyengine.testing.coverage import PointKind
from tests.testing.coverage.seeing import DOORS, coverage, guarded, left_out, missing, written


def seen_of(condition: str, *requests: str) -> dict[str, set[str]]:
    """What was seen of each part of a condition, by its text."""
    found = coverage(guarded(condition), "".join(requests))
    parts: dict[str, set[str]] = {}
    for point in found.points:
        if point.kind is PointKind.CONDITIONS:
            parts.setdefault(point.span.text, set()).update([point.seen] if point in found.hits else [])
    return parts


def test_coverage_expects_a_comparison_to_be_true_false_and_unknown() -> None:
    assert missing(guarded("body.n > 5"), "GET /docs/1 => allow", "`body.n > 5`") == [
        "`body.n > 5` was never true",
        "`body.n > 5` was never false",
        "`body.n > 5` was never unknown",
    ]


@pytest.mark.parametrize(("n", "seen"), [("9", "true"), ("1", "false"), ("absent", "unknown"), ('"9"', "unknown")])
def test_a_request_covers_the_truth_value_of_the_condition(n: str, seen: str) -> None:
    assert seen_of("body.n > 5", written(n=n)) == {"body.n > 5": {seen}}


@pytest.mark.parametrize(("doc", "seen"), [("1", "true"), ("2", "false")])
def test_a_request_covers_whether_the_resource_is_known(doc: str, seen: str) -> None:
    request_ = written().replace("/docs/1", f"/docs/{doc}")
    assert seen_of("resource is known", request_) == {"resource is known": {seen}}


def test_each_operand_and_the_whole_condition_are_separate_parts() -> None:
    assert seen_of("body.n > 5 and body.urgent", written(n="9", urgent="absent")) == {
        "body.n > 5 and body.urgent": {"unknown"}, "body.n > 5": {"true"}, "body.urgent": {"unknown"},
    }  # fmt: skip


def test_operands_after_the_deciding_one_are_covered_too() -> None:
    assert seen_of("body.n > 5 or body.urgent", written(n="9"))["body.urgent"] == {"false"}


def test_the_operand_of_not_is_the_covered_part() -> None:
    """What it was tells what its opposite was: `require c` and `deny when not c` have the same points."""
    assert seen_of("not (body.n > 5)", written(n="9")) == {"(body.n > 5)": {"true"}}
    denied, required = (
        coverage(f'{DOORS}guard "g" on write {{ {line} }}', written(n="9"))
        for line in ("deny when not (body.n > 5)", "require body.n > 5")
    )
    assert set(denied.points) == set(required.points)
    assert set(denied.missing) == set(required.missing)


def test_both_sides_of_a_comparison_of_conditions_are_parts() -> None:
    assert seen_of('(body.n > 5) == (body.note == "x")', written(n="9"))['(body.note == "x")'] == {"true"}


def test_the_body_of_a_quantifier_is_covered_for_each_element() -> None:
    parts = seen_of('any tag in body.tags: tag == "a"', written(tags='["a", "b", 7]'))
    assert parts['tag == "a"'] == {"true", "false", "unknown"}


def test_an_empty_list_does_not_cover_the_body_of_a_quantifier() -> None:
    parts = seen_of('any tag in body.tags: tag == "a"', written(tags="[]"))
    assert parts['tag == "a"'] == set()
    assert parts['any tag in body.tags: tag == "a"'] == {"false"}


def test_an_unknown_element_covers_the_body_as_unknown_even_under_not() -> None:
    assert seen_of('all tag in body.tags: not (tag == "a")', written(tags="[7]"))['(tag == "a")'] == {"unknown"}


# ── Definitions ───────────────────────────────────────────────────────────────────────────────

TWICE = f"""define large = body.n > 5 or body.urgent
{DOORS}guard "g" on write {{ deny when large   confirm by user when large and body.note == "ask" }}"""


def test_the_parts_of_a_definition_count_once_and_each_use_as_a_whole() -> None:
    texts = [point.span.text for point in coverage(TWICE).points if point.seen == "true"]
    assert texts.count("body.n > 5") == 1
    assert texts.count("body.n > 5 or body.urgent") == 1
    assert texts.count("large") == 2


def test_an_unreached_use_of_a_covered_definition_is_missing() -> None:
    rules = f"""define same = user.tenant == resource.tenant
      {DOORS}guard "r" on read {{ require same }}   guard "w" on write {{ require same }}"""
    assert missing(rules, "GET /docs/1 => allow", "never true") == ["`same` was never true"]


# ── Where it is considered ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rules", "request_", "reached"),
    [
        (guarded("user.tenant == \"a\""), "GET /docs/1 => allow", False),
        (guarded("user.tenant == \"a\""), "POST /docs/1 => deny", True),
        ('user any { may read }  agent "bot" { issued by acme  acts for any user  may read when user.tenant == "a" }',
         "GET /docs/1 => allow", True),
        ('user any { may read }  agent "bot" { issued by acme  acts for any user  may read when user.tenant == "a" }',
         "POST /docs/1 => deny", False),
        ('user any { may read }  agent "bot" { issued by acme  acts for any user  may read when user.tenant == "a" }',
         'given agent "other" GET /docs/1 => deny', False),
        ('user any { may read }  agent "bot" { issued by acme  acts for users where user.tenant == "a"  may read }',
         "GET /docs/1 => allow", True),
        ('user any { may read }  agent "bot" { issued by acme  acts for users where user.tenant == "a"  may read }',
         "GET /docs/1 { user.id: absent } => deny", False),
        ('user where user.tenant == "a" { may read }  agent "bot" { issued by acme  acts for any user  may read }',
         "GET /docs/1 => allow", True),
        ('user where user.tenant == "a" { may read }  agent "bot" { issued by acme  acts for any user  may read }',
         "GET /docs/1 { user.id: absent } => deny", False),
    ],
)  # fmt: skip
def test_a_condition_is_covered_only_when_its_rule_is_reached(rules: str, request_: str, reached: bool) -> None:
    words = '`user.tenant == "a"` was never true'
    assert (words not in missing(rules, request_)) == reached


def test_conditions_on_approvals_are_covered_like_guards() -> None:
    rules = f"""{DOORS}guard "ask" on write {{ confirm by user }}
      guard "g" on write {{ audit full when approval.granted }}"""
    asked = "POST /docs/1 => confirm\n"
    approved = 'POST /docs/1 { approval: { rule: "ask", by: "alice" } } => allow\n'
    assert missing(rules, asked, "approval") == [
        "`confirm by user` was never lifted by an approval",
        "`audit full when approval.granted` never applied", "`approval.granted` was never true",
    ]  # fmt: skip
    assert missing(rules, asked + approved, "approval") == []


# ── What is left out, and why ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("condition", "never"),
    [
        ('time within 08:00..18:00 "UTC"', {"unknown"}),
        ("approval.granted", {"unknown"}),
        ('request.method == "POST"', {"unknown"}),
        ('params.id.id == "7"', {"unknown"}),
        ('lower(params.id.id) like "a*"', {"unknown"}),
        ('not (params.id.id matches "a+")', {"unknown"}),
        ('params.id.id in ["1", "2"] or time > 2030-01-01', {"unknown"}),
        ('any one in ["a", "b"]: one == params.id.id', {"unknown"}),
        ("resource is known", {"unknown"}),  # a test says of everything whether there is a row
        ('user "root" is known and not params.id is known', {"unknown"}),
        ("user is known", set()),
        ("resource.tenant is present", set()),
        ("body.note is present", set()),  # a wrong type leaves it open
        ('host(params.id.id) == "a"', set()),
        ("body.n * 2 > 5", set()),
        ('params.id.id == "7" and body.urgent', set()),
        ('user in user "alice"', set()),
    ],
)
def test_impossible_truth_values_are_left_out_and_listed(condition: str, never: set[str]) -> None:
    """Of the whole condition: time, approvals, the endpoint and what it binds are always known."""
    text = condition.removeprefix("not ")
    told = {one.seen for one in coverage(guarded(condition)).left_out if one.span.text == text}
    assert told == never


@pytest.mark.parametrize(
    ("rules", "fact", "certain"),
    [
        ('user where user.id like "a*" { may read }', 'user.id like "a*"', True),
        ('user any { may read when user.id == "x" }', 'user.id == "x"', True),
        ('user any { may read }  agent where agent.id like "b*" { issued by acme  acts for any user  may read }',
         'agent.id like "b*"', True),
        ('user any { may read }  agent "bot" { issued by acme  acts for users where user.id == "x"  may read }',
         'user.id == "x"', True),
        ('user any { may read }  agent "bot" { issued by acme  acts for any user  may read when user.id == "x" }',
         'user.id == "x"', False),  # the block may be void because there is no user
        ('anyone { may GET /x when user.id == "x" }', 'user.id == "x"', False),
        (guarded('user.id == "x"'), 'user.id == "x"', False),
    ],
)  # fmt: skip
def test_the_id_of_the_caller_is_never_unknown_in_its_own_block(rules: str, fact: str, certain: bool) -> None:
    assert (left_out(rules, fact) == [f"`{fact}` can never be unknown"]) == certain


def test_a_part_that_is_never_true_is_left_out() -> None:
    rules = guarded("body.n > 5 or (body.note is present and body.note is absent)")
    told = {one.words.replace("(", "").replace(")", "") for one in coverage(rules).left_out}
    assert "`body.note is present and body.note is absent` can never be true" in told


def test_a_definition_can_be_unknown_when_one_of_its_uses_can() -> None:
    rules = """define mine = user.id == "alice"
      user any { may read when mine   may write }
      agent "bot" { issued by acme   acts for any user   may read, write }"""
    assert left_out(rules, '`user.id == "alice"`') == ['`user.id == "alice"` can never be unknown']
    more = rules + ' guard "g" on write { deny when mine }'
    assert left_out(more, '`user.id == "alice"`') == []
    assert left_out(more, "`mine`") == ["`mine` can never be unknown"]  # but not where a user is asked about


def test_a_confirm_is_missing_until_an_approval_lifts_it() -> None:
    rules = f'{DOORS}guard "ask" on write {{ confirm by user }}'
    asked = "POST /docs/1 => confirm\n"
    others = asked + 'POST /docs/1 { approval: { rule: "ask", by: "mallory" } } => confirm\n'
    approved = asked + 'POST /docs/1 { approval: { rule: "ask", by: "alice" } } => allow\n'
    assert missing(rules, asked, "lifted") == ["`confirm by user` was never lifted by an approval"]
    assert missing(rules, others, "lifted") == ["`confirm by user` was never lifted by an approval"]
    assert missing(rules, approved, "lifted") == []
