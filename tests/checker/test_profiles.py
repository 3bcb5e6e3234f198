"""Profiles: what they become, their mistakes, and conditions on learned facts that do not do what they seem to."""

from __future__ import annotations

from datetime import timedelta

import pytest

from policyengine import kernel as k
from policyengine.check import check, check_text
from policyengine.kernel.fingerprint import compute_revision
from policyengine.source import Source
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse

AGENTS = """issuer idp { scopes none }
agent "bot*" { issued by idp   acts alone   may GET /a, POST /b }
agent "report-*" { issued by idp   acts alone   may GET /a }
"""
READS = '\nguard "reads" on GET /a { warn when behavior.burst }\n'
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


def kernel(text: str) -> k.Kernel:
    module, found = parse(Source("p", AGENTS + text))
    checked = check([module] if module else [], found)
    assert checked.kernel is not None, checked.diagnostics
    return checked.kernel


def found(text: str) -> list[tuple[str, str]]:
    return [(one.code, " ".join(one.span.text.split())) for one in check_text(AGENTS + text + READS)]


def messages(text: str) -> list[str]:
    return [one.message for one in check_text(AGENTS + text + READS)]


# ── What a profile becomes ────────────────────────────────────────────────────────────────────


def test_a_profile_has_default_values() -> None:
    (profile,) = kernel('profile "p" for agent "bot" { burst once in 100d }').profiles
    assert profile == k.Profile("p", "main", k.ExactName("bot"), span=profile.span)
    assert (profile.run_key, profile.version) == (None, None)
    assert (profile.run_idle, profile.learn, profile.ready_runs) == (5 * MINUTE, 14 * DAY, 20)
    assert (profile.ready_days, profile.burst_days) == (7, 100)


def test_a_profile_states_everything_in_any_order() -> None:
    (profile,) = kernel(
        """profile "p" for agent "report-*" {
          version by attestation.model_hash   burst once in 50d   ready 1_000 runs, 28d   learn 28d
          run by request.headers["x-run"] within 24h
        }"""
    ).profiles
    assert profile.agents == k.NamePattern("report-*")
    assert isinstance(profile.run_key, k.Fact)
    assert isinstance(profile.version, k.Fact)
    assert profile.run_key.path == ("request", "headers", "x-run")
    assert profile.version.path == ("attestation", "model_hash")
    assert (profile.run_idle, profile.learn, profile.ready_runs) == (DAY, 28 * DAY, 1_000)
    assert (profile.ready_days, profile.burst_days) == (28, 50)


def test_a_short_period_makes_the_default_days_shorter() -> None:
    (profile,) = kernel('profile "p" for agent "bot" { learn 3d }').profiles
    assert (profile.learn, profile.ready_days) == (3 * DAY, 3)


def test_a_run_without_a_key_ends_after_a_pause() -> None:
    (profile,) = kernel('profile "p" for agent "bot" { run within 90s }').profiles
    assert (profile.run_key, profile.run_idle) == (None, timedelta(seconds=90))


def test_a_profile_may_be_of_a_group() -> None:
    (profile,) = kernel('profile "p" for group "night" { learn 14d }').profiles
    assert profile.agents == k.InGroup("night")


def test_profiles_are_part_of_the_revision_and_their_absence_is_not() -> None:
    texts = ["", 'profile "p" for agent "bot" { learn 14d }', 'profile "p" for agent "bot" { learn 13d }']
    revisions = [kernel(text).revision for text in texts]
    assert len(set(revisions)) == 3
    stated = 'profile "p" for agent "bot" { run within 5m   ready 20 runs, 7d   learn 14d }'
    assert kernel(stated).revision == revisions[1]
    assert compute_revision(kernel("")) == revisions[0]


# ── Mistakes ──────────────────────────────────────────────────────────────────────────────────

MISTAKES = [
    ("", 'this profile is empty', '"p"'),
    ("learn 14d   learn 7d", "`learn` is stated twice", "learn 7d"),
    ("run within 5m   run by task.id", "`run` is stated twice", "run by task.id"),
    ("learn 12h", "`learn` takes a duration from `1d` to `28d`", "12h"),
    ("learn 29d", "`learn` takes a duration from `1d` to `28d`", "29d"),
    ("learn 36h", "`learn` takes whole days", "36h"),
    ("ready 0 runs, 7d", "`ready` takes a whole number of runs from 1 to 1_000", "0"),
    ("ready 1001 runs, 7d", "`ready` takes a whole number of runs from 1 to 1_000", "1001"),
    ("ready 1.5 runs, 7d", "`ready` takes a whole number of runs from 1 to 1_000", "1.5"),
    ("ready 20 runs, 30d", "`ready` takes a duration from `1d` to `28d`", "30d"),
    ("ready 20 runs, 1d12h", "`ready` takes whole days", "1d12h"),
    ("ready 20 runs, 15d", "`ready` takes 15 days, but `learn` reaches back only 14", "15d"),
    ("burst once in 1h", "`burst once in` takes a duration from `1d` to `1000d`", "1h"),
    ("burst once in 1001d", "`burst once in` takes a duration from `1d` to `1000d`", "1001d"),
    ("run within 999ms", "`run … within` takes a duration from `1s` to `24h`", "999ms"),
    ("run by task.id within 25h", "`run … within` takes a duration from `1s` to `24h`", "25h"),
]  # fmt: skip


@pytest.mark.parametrize(("inside", "message", "underlined"), MISTAKES, ids=[row[0] or "nothing" for row in MISTAKES])
def test_each_mistake_in_a_profile_is_reported(inside: str, message: str, underlined: str) -> None:
    (one,) = check_text(AGENTS + f'profile "p" for agent "bot" {{ {inside} }}')
    assert (one.code, one.message, one.span.text) == ("E911", message, underlined)


@pytest.mark.parametrize(
    "fact",
    [
        "user.id",
        "agent.id",
        "behavior.ready",
        "credential.bound",
        "credential.age",
        "time",
        "task.tools",
    ],
)
def test_runs_and_versions_are_told_apart_by_strings_of_the_request(fact: str) -> None:
    assert found(f'profile "p" for agent "bot" {{ run by {fact} }}') == [("E912", fact)]
    assert found(f'profile "p" for agent "bot" {{ version by {fact} }}') == [("E912", fact)]


def test_a_key_may_name_an_unknown_fact_only_once() -> None:
    assert found('profile "p" for agent "bot" { run by task.idd }') == [("E201", "task.idd")]


@pytest.mark.parametrize(
    ("one", "other", "meets"),
    [
        ('agent "bot"', 'agent "bot"', True),
        ('agent "b*"', 'agent "*t"', True),
        ('agent "report-*"', 'agent "*-9"', True),
        ('agent "a*"', 'agent "b*"', False),
        ('agent "bot"', 'agent "b*"', False),
        ('agent "b*"', 'group "ops"', False),
        ('group "ops"', 'group "night"', True),
    ],
)
def test_two_profiles_of_one_rank_do_not_share_an_agent(one: str, other: str, meets: bool) -> None:
    text = 'agent group "ops" { issued by idp   acts alone   may GET /a }\n'
    text += f'profile "p" for {one} {{ learn 14d }}\nprofile "q" for {other} {{ learn 14d }}'
    diagnostics = [found for found in check_text(AGENTS + text) if found.code == "E913"]
    assert [found.span.text for found in diagnostics] == ([f'profile "q" for {other}'] if meets else [])
    assert all(found.related[0].span.text == f'profile "p" for {one}' for found in diagnostics)


def test_two_profiles_have_different_names() -> None:
    text = 'profile "p" for agent "bot" { learn 14d }\nprofile "p" for agent "report-1" { learn 14d }'
    assert messages(text) == ["two profiles are named `p`"]
    assert messages('profile "" for agent "bot" { learn 14d }') == ["a profile needs a name"]


def test_a_rule_and_a_profile_may_share_a_name() -> None:
    assert found('profile "p" for agent "bot*" { learn 14d }\nguard "p" on GET /a { deny when behavior.burst }') == []


@pytest.mark.parametrize(
    ("agents", "known"),
    [('agent "bot"', True), ('agent "bat"', False), ('agent "report-7"', True), ('agent "*t"', True),
     ('agent "x*"', False), ('group "night"', True)],
)  # fmt: skip
def test_a_profile_of_no_agent_is_reported(agents: str, known: bool) -> None:
    expected = [] if known else [("W911", f'profile "p" for {agents}')]
    assert [one for one in found(f'profile "p" for {agents} {{ learn 14d }}') if one[0] != "W921"] == expected


@pytest.mark.parametrize("rule", ["", 'guard "g" on GET /a { warn when request.size > 5 }'])
def test_a_profile_without_a_rule_that_reads_a_learned_fact_is_reported(rule: str) -> None:
    text = f'{AGENTS}profile "p" for agent "bot" {{ learn 14d }}\n{rule}'
    assert [(one.code, one.message) for one in check_text(text)] == [
        ("W914", "nothing is learned for the profile `p`: no rule reads a learned fact")
    ]


def test_an_agent_block_with_a_condition_may_be_about_any_name() -> None:
    text = 'agent where agent.model == "m" { issued by idp   acts alone   may GET /a }\n'
    assert found(text + 'profile "p" for agent "x*" { learn 14d }') == []


# ── Learned facts in rules ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rule", "reads"),
    [
        ('guard "g" on GET /a { deny when behavior.burst }', True),
        ('rate "r" per agent.id { 60/1m   clamp 2/1m when behavior.novelty > 0.3 or not behavior.ready }', True),
        ('define calm = behavior.trust > 0.5\nguard "g" on GET /a { deny unless calm }', True),
        ('guard "g" on GET /a { deny when after (POST /b where past.behavior.burst) within 1h }', True),
        ('define calm = behavior.trust > 0.5\nguard "g" on GET /a { deny when request.size > 5 }', False),
        ('guard "g" on GET /a { deny when behavior.deviation > 0.9 }', True),
        ('guard "g" on GET /a { deny when request.size > 5 }', False),
    ],
)
def test_the_kernel_says_whether_a_rule_reads_a_learned_fact(rule: str, reads: bool) -> None:
    assert kernel(rule).reads_behavior is reads


@pytest.mark.parametrize("key", ["cluster.id", "(cluster.id, user.id)"])
def test_a_rate_may_count_by_groups(key: str) -> None:
    assert kernel(f'rate "r" per {key} on /** {{ 60/1m   clamp 2/1m when cluster.size > 2 }}').reads_behavior


def test_no_limit_counts_by_the_size_of_groups() -> None:
    text = 'rate "r" per cluster.size on /** { 60/1m }'
    assert found(text)[:1] == [("E914", "cluster.size")]


GRANTS = [
    'anyone { may GET /c when behavior.trust > 0.9 }',
    'define calm = behavior.ready\nanyone { may GET /c when calm }',
    'anyone { may GET /c when after (GET /a where past.behavior.trust > 0.9) within 1h }',
    'define calm = after (GET /a where not past.behavior.burst) within 1h\nanyone { may GET /c when calm }',
    'user where after (GET /a where past.behavior.ready) within 1h { may GET /c }',
]  # fmt: skip


@pytest.mark.parametrize("text", GRANTS)
def test_behavior_grants_nothing_not_even_in_the_past(text: str) -> None:
    assert "E415" in [code for code, _ in found(text)]


@pytest.mark.parametrize(
    "text",
    [
        'rate "r" per behavior.ready on GET /a { 60/1m }',
        'rate "r" per agent.id on GET /a { behavior.trust/1m }',
        'rate "r" per agent.id on GET /a { 60/1m   cost behavior.novelty }',
        'budget "b" per agent.id on GET /a { sum behavior.trust <= 5 within 1h }',
        'budget "b" per agent.id on GET /a { count <= behavior.trust within 1h }',
        'budget "b" per agent.id on GET /a { distinct behavior.burst <= 1 within 1h }',
    ],
)
def test_a_limit_does_not_count_by_learned_facts(text: str) -> None:
    assert [code for code, _ in found(text)] == ["E914"]


@pytest.mark.parametrize(
    ("condition", "result"),
    [
        ("behavior.trust > 1", "false"), ("behavior.trust >= 0", "true"), ("behavior.novelty < 0", "false"),
        ("behavior.error_rate <= 1", "true"), ("behavior.error_rate == 1.5", "false"),
        ("behavior.error_rate != 2", "true"), ("30 < behavior.novelty", "false"), ("0 <= behavior.trust", "true"),
        ("behavior.trust > 0.999", None), ("behavior.trust >= 1", None), ("behavior.trust == 0", None),
        ("behavior.trust < 1", None), ("0.3 < behavior.novelty", None), ("behavior.trust > behavior.novelty", None),
    ],
)  # fmt: skip
def test_a_threshold_out_of_range_is_reported(condition: str, result: str | None) -> None:
    text = f'guard "g" on GET /a {{ warn when {condition} }}'
    expected = [] if result is None else [("W912", condition)]
    assert [one for one in found(text) if one[0] == "W912"] == expected
    if result is not None:
        assert f"`{condition}` is always {result}" in messages(text)


def test_a_message_about_a_threshold_quotes_the_condition_as_it_is_written() -> None:
    text = 'let maxNovelty = 30\nguard "g" on GET /a { warn when behavior.novelty > maxNovelty }'
    assert "`behavior.novelty > maxNovelty` is always false" in messages(text)


RATE = 'rate "r" per agent.id on GET /a { 60/1m   clamp 2/1m for 10m when behavior.burst%s }'


@pytest.mark.parametrize(
    ("more", "escapes"),
    [
        ("", True),
        ("   clamp 30/1m when not behavior.ready", False),
        ("   clamp 30/1m when not behavior.ready and request.size > 9", False),
        ("   clamp 30/1m when behavior.ready and behavior.novelty > 0.3", True),
        ("   clamp 30/1m when request.size > 9", True),
    ],
)
def test_a_clamp_that_new_callers_escape_is_reported(more: str, escapes: bool) -> None:
    diagnostics = [one for one in check_text(AGENTS + RATE % more) if one.code == "W913"]
    hint = "add `clamp 30/1m when not behavior.ready`"
    assert [(one.span.text, one.hint) for one in diagnostics] == (
        [("clamp 2/1m for 10m when behavior.burst", hint)] if escapes else []
    )


@pytest.mark.parametrize(
    ("rule", "escapes"),
    [
        ('guard "g" on GET /a { deny when not behavior.ready }', False),
        ('define known = behavior.ready\nguard "g" { confirm by role boss unless known }', False),
        ('guard "g" on POST /b { deny when not behavior.ready }', True),
        ('guard "g" on GET /a { warn when not behavior.ready }', True),
        ('rate "s" per agent.id on GET /a when not behavior.ready { 5/1m }', False),
        ('rate "s" per agent.id on GET /a { 5/1m   raise x2 at most 10/1m when not behavior.ready }', True),
    ],
)
def test_another_rule_may_be_about_new_callers(rule: str, escapes: bool) -> None:
    text = f"entity user {{ roles: set<string> }}\n{RATE % ''}\n{rule}"
    assert ("W913" in [code for code, _ in found(text)]) is escapes


# ── How a profile is written ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("ready 20, 7d", "expected `runs`, got `,`"),
        ("burst twice in 5d", "expected `once`, got `twice`"),
        ("lern 14d", "unknown word `lern`"),
        ("learn", "expected a duration, got `}`"),
        ("run task.id", "expected `by` or `within`, got `task.id`"),
        ("version task.id", "expected `by`, got `task.id`"),
        ("floor 5/1m", "expected `burst`, `expect`, `run`, … or `}`, got `floor`"),
    ],
)
def test_a_misspelled_item_is_explained(inside: str, message: str) -> None:
    assert messages(f'profile "p" for agent "bot" {{ {inside} }}') == [message]


def test_the_formatter_separates_the_items_of_a_profile() -> None:
    written = 'profile "p" for agent "x" {learn 14d ready 20 runs ,7d  burst   once in 100d\nrun by task.id within 5m}'
    assert format_module(Source("p", written)) == (
        'profile "p" for agent "x" { learn 14d   ready 20 runs, 7d   burst once in 100d\n  run by task.id within 5m }\n'
    )
