"""What is wrong with rates and budgets, or could be safer: conditions, places, keys, and the store."""

import pytest

from policyengine.check import check_text, lint_text

BASE = "anyone { may GET /a }\n"
HINTED = 'rate "calls" per {} {{ 100/1m }}\n'


def told(text, find=check_text):
    return [(one.code, one.message, one.span.text) for one in find(BASE + text)]


@pytest.mark.parametrize("word", ["rate", "budget"])
def test_a_limit_that_can_never_act_is_an_error(word):
    items = "5/1m" if word == "rate" else "count <= 5 within 1m"
    (found,) = told(f'{word} "calls" per request.ip when 1 == 2 {{ {items} }}')
    assert found == ("E702", f"this `{word}` never acts: its condition is always false", "1 == 2")


def test_a_raise_that_can_never_act_is_an_error():
    found = told(
        'rate "calls" per request.ip { 5/1m  raise x2 at most 9/1m when request.size > 5 and request.size < 3 }'
    )
    assert [one[:2] for one in found] == [("E701", "this `raise` never acts: its condition is never true")]


def test_a_clamp_that_can_never_act_is_an_error():
    found = told('rate "calls" per request.ip { 5/1m  clamp 1/1m when 1 == 2 }')
    assert [one[:2] for one in found] == [("E702", "this `clamp` never acts: its condition is always false")]


def test_a_clamp_that_acts_only_on_unknown_facts_is_reported():
    found = told('rate "calls" per request.ip { 5/1m  clamp 1/1m when request.size > 5 and request.size < 3 }')
    assert [one[0] for one in found] == ["W702"]


def test_a_limit_with_an_always_true_condition_is_reported():
    assert [one[0] for one in told('rate "calls" per request.ip when 1 == 1 { 5/1m }')] == ["W703"]


def test_limit_conditions_with_a_varying_result_are_not_reported():
    text = 'rate "calls" per request.ip when request.size > 5 { 5/1m  clamp 1/1m when request.size > 9 }'
    assert told(text) == []


@pytest.mark.parametrize(
    "limit",
    ['rate "calls" per request.ip on {} {{ 5/1m }}', 'budget "calls" per request.ip on {} {{ count <= 5 within 1m }}'],
)
def test_a_limit_on_an_endpoint_without_a_grant_is_reported(limit):
    assert told(limit.format("/b")) == [("W521", "no grant covers `/b`", "/b")]
    assert told(limit.format("/a")) == []


LOADED = "facts on /a { body.amount: number   body.tags: set<string> }\n"
LIMITS = {
    'rate "calls" per agent.id on /a when {} {{ 5/1m }}': False,
    'budget "calls" per agent.id on /a when {} {{ count <= 5 within 1m }}': False,
    'rate "calls" per agent.id on /a {{ 5/1m   clamp 1/1m when {} }}': False,
    'rate "calls" per agent.id on /a {{ 5/1m   raise x2 at most 9/1m when {} }}': True,
}


@pytest.mark.parametrize(("limit", "loosens"), LIMITS.items())
def test_a_default_the_caller_can_exploit_in_a_limit_is_reported(limit, loosens):
    way_around, none = "(body.amount else 0) > 10", "(body.amount else 99) > 10"
    if loosens:
        way_around, none = none, way_around
    [found] = [one for one in told(LOADED + limit.format(way_around), lint_text) if one[0] == "W554"]
    does = "raises `calls`" if loosens else "keeps `calls` from acting"
    assert found[:2] == ("W554", f"omitting `body.amount` {does}")
    assert [one for one in told(LOADED + limit.format(none), lint_text) if one[0] == "W554"] == []


@pytest.mark.parametrize(("limit", "loosens"), LIMITS.items())
def test_a_quantifier_an_empty_set_bypasses_in_a_limit_is_reported(limit, loosens):
    all_good, sign = 'all t in body.tags: t == "good"', "" if loosens else "not "
    [found] = told(LOADED + limit.format(f"{sign}({all_good})"))
    assert found[:2] == (
        "W551",
        "an empty `body.tags` lets this pass more often: `all` is true for an empty set",
    )
    assert told(LOADED + limit.format(f"{'not ' if loosens else ''}({all_good})")) == []


@pytest.mark.parametrize("limit", LIMITS)
def test_an_attester_used_by_a_limit_is_not_reported_as_unused(limit):
    text = "attester lab {}\n" + limit.format('attestation.by == "lab"')
    assert [one for one in told(text, lint_text) if one[0] == "W263"] == []


KEYS = {
    "request.host": True,
    "request.ip": False,
    "agent.id": False,
    "(agent.id, request.host)": False,
    "(request.host, request.path)": True,
}


@pytest.mark.parametrize(("key", "found"), KEYS.items())
def test_a_limit_key_the_caller_chooses_is_reported(key, found):
    limit = HINTED.replace(" {{", " when agent.id is present {{") if "agent" in key else HINTED
    assert [one[0] for one in told(limit.format(key), lint_text)] == ["W555"] * found


def test_a_limit_key_from_the_body_is_reported():
    text = 'facts on /a { body.card: string }\nrate "calls" per body.card on /a { 5/1m }'
    assert [one[::2] for one in told(text, lint_text)] == [("W555", "body.card")]


def test_a_limit_that_allows_on_store_failure_is_reported():
    text = 'rate "calls" per request.ip {{ 5/1m  on store failure {} }}'
    assert [one[0] for one in told(text.format("allow"), lint_text)] == ["W556"]
    assert told(text.format("local"), lint_text) == []


def test_a_name_used_only_by_a_limit_is_not_reported_as_unused():
    text = (
        "let most = 5\ndefine busy = request.size > 9\n"
        'budget "calls" per request.ip { count <= most within 1m }\n'
        'rate "slow" per request.ip { 5/1m  clamp 1/1m when busy }\n'
    )
    assert told(text) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('guard "a" { deny when cluster.size > 3 }', "E515"),
        ('guard "a" { require cluster.id == "x" }', "E515"),
        ('define busy = cluster.size > 3\nguard "a" { deny when busy }', "E515"),
        ('guard "a" { require after (GET /a where cluster.size > 3) within 1h }', "E515"),
        ("user where cluster.size < 3 { may GET /b }", "E414"),
        ('agent "x" { acts for users where cluster.size < 3   may GET /b }', "E404"),
        ("anyone { may GET /b when cluster.size < 3 }", "E415"),
        ("anyone { may GET /b when behavior.trust > 0.9 }", "E415"),
    ],
)
def test_learned_facts_are_rejected_where_the_language_forbids_them(text, code):
    assert any(one[0].startswith(code) for one in told(text)), told(text)


def test_a_key_by_full_address_is_reported_and_one_by_network_is_not():
    def hints(key):
        return [one.hint for one in lint_text(BASE + HINTED.format(key)) if one.code == "W555"]

    assert hints("address(request.ip)") == ["write `per request.ip`, which counts an IPv6 address by its /64"]
    assert hints("request.ip") == []
