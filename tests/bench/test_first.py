"""First questions and swaps are timed with the engine's own means, and the table says what was slower."""

import pytest

from bench import directory, first


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"THOUSAND": 40, "SWAPS": 1, "WARM_UP": 1}.items():
        monkeypatch.setattr(first, name, value)
    monkeypatch.setattr(directory, "USERS", 60)
    monkeypatch.setattr(directory, "TEAMS", 20)


def test_first_questions_are_asked_at_several_endpoints() -> None:
    found = first.measure_first(30)
    assert found["endpoints"] > 3
    assert min(found["load_ms"], found["very_first_us"], found["first_p50_us"], found["second_p50_us"]) > 0


@pytest.mark.parametrize("what", [first.POLICIES, first.ENTITIES])
@pytest.mark.parametrize("size", [1, 30])
def test_decisions_are_timed_before_and_after_a_swap(what: str, size: int) -> None:
    found = first.measure_swap(what, max(size, 12) if what == first.POLICIES else size)
    assert min(found[name] for name in ("swap_ms", "before_p50_us", "after_p50_us", "after_mean_us")) > 0


def test_a_swap_replaces_what_decides() -> None:
    decide, fresh, swap = first._policy_swaps(12)
    before = {decide(question).revision for question in fresh()}
    swap()
    after = {decide(question).revision for question in fresh()}
    assert (len(before), len(after), before & after) == (1, 1, set())


def test_the_table_shows_first_questions_and_swaps() -> None:
    asked = {
        "size": 10_000, "load_ms": 2_000.0, "endpoints": 9, "very_first_us": 5_000.0,
        "very_first_from_bundle_us": 9_000.0, "first_p50_us": 100.0, "first_p99_us": 200.0, "second_p50_us": 4.0,
        "second_p99_us": 8.0,
    }  # fmt: skip
    swapped = {
        "what": "policies", "size": 10, "swap_ms": 3.0, "before_p50_us": 4.0, "before_p99_us": 8.0,
        "after_p50_us": 5.0, "after_p99_us": 90.0, "before_mean_us": 4.0, "after_mean_us": 8.0,
    }  # fmt: skip
    section = first.section([asked, swapped])
    assert section.rows[-1] == ("swap of the policies, 10 rules", "3.00", "4.00 / 8.00", "5.00 / 90.0", "2.00×")
    assert [target.holds for target in section.targets] == [False, True, True, True, True]


def test_a_failed_measurement_is_shown_with_its_reason() -> None:
    section = first.section([{"size": 10, "error": "no memory"}, {"what": "policies", "size": 10, "error": "too slow"}])
    assert [row[1] for row in section.rows] == ["no memory", "too slow"]
    assert [target.holds for target in section.targets] == [None] * 5
