"""Large policies: the work of a check follows their size, or ends with one message."""

import pytest

from bench import command_policies as inputs
from policyengine.check import check_text, lint_text
from policyengine.checker.patterns import binders, overlap, places
from policyengine.checker.patterns.overlap import GlobIndex, PatternIndex
from policyengine.lint import policy_mistakes
from policyengine.lint.rules import shared_users
from policyengine.lint.rules import user_grants as user_doors


def calls_of(monkeypatch, places, run) -> int:
    """How often functions are called, each named with the module that calls it."""
    count = 0

    def counted(function):
        def call(*arguments):
            nonlocal count
            count += 1
            return function(*arguments)

        return call

    with monkeypatch.context() as patched:
        for module, name in places:
            patched.setattr(module, name, counted(getattr(module, name)))
        run()
    return count


COMPARING = [
    (overlap, "covers"),
    (overlap, "overlaps"),
    (overlap, "globs_meet"),
    (policy_mistakes, "globs_meet"),
    (shared_users, "globs_meet"),
    (binders, "check_pair"),
]


@pytest.mark.parametrize(
    "text",
    [
        inputs.issuers_of_users,
        inputs.hand_overs,
        inputs.crossing_paths,
        inputs.overlapping_paths,
        inputs.tool_patterns,
        inputs.facts_by_place,
    ],
    ids=lambda text: text.__name__,
)
def test_the_number_of_comparisons_grows_linearly_with_the_rules(monkeypatch, text):
    assert not [one for one in check_text(text(32)) if one.is_error]
    few, many = (calls_of(monkeypatch, COMPARING, lambda count=count: check_text(text(count))) for count in (32, 128))
    assert many < 8 * (few + 32)


def test_a_guard_with_many_patterns_is_compared_only_with_nearby_patterns(monkeypatch):
    """As the guard of what an import added stands at every new endpoint."""

    def text(count: int) -> str:
        every = inputs.joined("DELETE /r@/{id}", count)
        guard = f'guard "new" on {every} {{ deny }}\n'
        return inputs.lines("scope s@ { DELETE /r@/{id} }", count) + guard + inputs.BOT % inputs.joined("s@", count)

    few, many = (calls_of(monkeypatch, COMPARING, lambda count=count: check_text(text(count))) for count in (32, 128))
    assert many < 8 * few


def test_issuer_lookups_grow_linearly_with_the_issuers(monkeypatch):
    calls = [(user_doors, "issuers_of")]
    few, many = (
        calls_of(monkeypatch, calls, lambda count=count: lint_text(inputs.issuers(count))) for count in (16, 64)
    )
    assert 0 < many < 6 * few


def test_patterns_that_overlap_too_often_are_rejected_with_one_message(monkeypatch):
    monkeypatch.setattr(overlap, "STEPS_PER_PATTERN", 5)
    monkeypatch.setattr(PatternIndex.__init__, "__defaults__", (100,))
    found = check_text(inputs.crossing_paths(200).replace("{x}", "{y}"))
    assert [one.code for one in found] == ["E322"]


def test_scopes_that_include_too_many_others_are_rejected_with_one_message(monkeypatch):
    monkeypatch.setattr(places, "MAX_INCLUDED", 1_000)
    found = check_text(inputs.includes(120))
    assert [one.code for one in found if one.is_error] == ["E323"]


def test_conflicting_captures_are_reported_a_few_times_per_pattern():
    paths = inputs.crossing_paths(200).replace("{x}", "{y}")
    told = [one for one in check_text(paths) if one.code == "E321"]
    assert 100 <= len(told) <= 200 * (binders.MAX_CONFLICTS + 1)


@pytest.mark.parametrize("glob", ["*", "a*", "*a", "ab", "a*b", "*b*", "", "b*a*", "abc"])
def test_the_glob_index_returns_every_overlapping_glob(glob):
    globs = ["*", "a*", "*a", "ab", "a*b", "*b*", "", "b*a*", "abc", "aa", "*bc", "c*"]
    index: GlobIndex[str] = GlobIndex()
    for one in globs:
        index.add(one, one)
    near = [one for one, _ in index.near(glob)]
    assert len(near) == len(set(near))
    assert {one for one in globs if overlap.globs_meet(glob, one)} <= set(near)
