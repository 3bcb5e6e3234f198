"""Sums of a model are a monoid: however principals are distributed, merging gives the model of all of their rows."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.behavior.bulk.line_filter import LineFilter
from policyengine.behavior.bulk.log_lines import LineDecoder, read_learned
from policyengine.behavior.events import Tagger
from policyengine.behavior.learn import ModelSums, learn_model
from policyengine.behavior.learn_logs import learn_lines
from policyengine.behavior.state import BehaviorState
from tests.behavior.bulk.logs import KEY, NOW, SETTINGS, make_lines, write_lines


def settings_of(group):
    return SETTINGS


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The rows of agents with one caller, with instances, and with versions, and the time of the latest decision."""
    path = write_lines(tmp_path_factory.mktemp("sums") / "log.jsonl", make_lines(7, agents=9, days=9, runs=12))
    state, filter = BehaviorState(Tagger(KEY)), LineFilter({}, NOW)
    learn_lines(read_learned([path], LineDecoder(None), print), filter, state, settings_of)
    found = [(caller, kept.group, kept.row) for caller, kept in state.rows.items()]
    return found, filter.tally.latest


def whole(rows, now):
    return learn_model(rows, settings_of, now, 3, "tags")


def sums_of(rows, now):
    sums = ModelSums(settings_of, now)
    for each in rows:
        sums.add(*each)
    return sums


@given(st.data())
def test_the_sums_of_parts_merge_to_the_model_of_all_rows(rows, data):
    found, now = rows
    agents = sorted({caller.agent for caller, _, _ in found})
    part_of = {agent: data.draw(st.integers(0, 3)) for agent in agents}
    parts = [sums_of([row for row in found if part_of[row[0].agent] == part], now) for part in range(4)]
    merged = ModelSums(settings_of, now)
    for part in data.draw(st.permutations(parts)):
        if data.draw(st.booleans()):
            merged.merge_packed(part.pack())
        else:
            merged.merge(part)
    assert merged.learn(3, "tags").payload == whole(found, now).payload


@given(st.data())
def test_merging_is_associative_and_an_empty_sum_changes_nothing(rows, data):
    found, now = rows
    agents = sorted({caller.agent for caller, _, _ in found})
    part_of = {agent: data.draw(st.integers(0, 2)) for agent in agents}

    def part(number):
        return sums_of([row for row in found if part_of[row[0].agent] == number], now)

    left, inner = part(0), part(1)
    left.merge(part(1))
    left.merge(part(2))
    inner.merge(part(2))
    right = part(0)
    right.merge(inner)
    right.merge(ModelSums(settings_of, now))
    assert left.learn(1, "").payload == right.learn(1, "").payload


def test_the_model_is_one_of_ready_classes_with_margins_and_sequences(rows):
    found, now = rows
    learned = whole(found, now).content.classes[0]
    assert learned.is_ready
    assert learned.has_margins
    assert learned.grams.total > 0
    assert learned.class_tails


def test_the_same_principal_in_two_sums_is_an_error(rows):
    found, now = rows
    sums = sums_of(found, now)
    with pytest.raises(ValueError, match="a principal is in both sums"):
        sums.merge(sums_of(found[:1], now))


def test_damaged_sums_are_an_error(rows):
    with pytest.raises(msgspec.DecodeError):
        ModelSums(settings_of, rows[1]).merge_packed(b"\x91\x01")
