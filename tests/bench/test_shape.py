"""`python -m bench shape`: seeded payloads, attacks in them, and what is counted."""

from collections import Counter

import pytest

from bench import shape
from bench.shape_traffic import OWN_ATTACKS, SIMULATED, simulated

BODY = {"a": "x", "b": ({"c": 1}, {"c": 2})}


def test_payloads_are_seeded():
    assert simulated(5) == simulated(5)
    assert simulated(5).keys() == SIMULATED.keys()
    assert all(len(bodies) == 5 for bodies in simulated(5).values())


def test_an_attack_changes_one_place():
    places = [place for place, _ in shape.leaves(BODY)]
    assert places == [("a",), ("b", 0, "c"), ("b", 1, "c")]
    assert shape.attacked(BODY, places[2], "!", shape.REPLACED) == {"a": "x", "b": ({"c": 1}, {"c": "!"})}
    assert shape.attacked(BODY, places[0], "!", shape.APPENDED) == {**BODY, "a": "x!"}


def test_f1_is_at_equal_numbers():
    found = shape.Detection("a", "b", shape.REPLACED, 90, 100, 0, 0, 2, 1_000)
    assert found.f1 == pytest.approx(2 * 0.9 / (2 * 0.9 + 0.1 + 0.002))


def test_attacks_are_seen_and_usual_payloads_are_not():
    bodies = {name: made for name, made in simulated(1_200).items() if name in ("POST /payments", "POST /search")}
    found = shape.detections("simulated", bodies, {"own": list(OWN_ATTACKS)})
    assert Counter(one.way for one in found) == {shape.REPLACED: 1, shape.APPENDED: 1}
    assert all(one.seen / one.count > 0.95 for one in found)
    assert found[0].false_rate <= 0.02


def test_new_fields_are_new_structures_and_usual_payloads_are_not():
    found = shape.structure_alarms("simulated", simulated(400))
    assert (found.tested, found.attacks) == (1_000, 1_000)
    assert found.alarms <= 10
    assert found.seen >= 990
