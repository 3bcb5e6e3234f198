"""Ids of decisions: ULIDs, whose time can be read back."""

from collections import Counter
from random import Random

import pytest

from policyengine.runtime.ids import ULID, time_of, ulid

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
MILLISECOND = 1_000_000


@pytest.mark.parametrize(
    ("milliseconds", "characters"),
    [
        (0, "0000000000"),
        (31, "000000000Z"),
        (2**20 - 1, "000000ZZZZ"),
        (2**20, "0000010000"),
        (1_469_918_176_385, "01ARYZ6S41"),  # the example of the specification of ULIDs
        (2**48 - 1, "7ZZZZZZZZZ"),
    ],
)
def test_an_id_begins_with_its_time(milliseconds: int, characters: str):
    assert ulid(milliseconds * MILLISECOND + 5, 0)[:10] == characters


def test_the_time_of_an_id_can_be_read_back():
    random = Random(1)
    for bits in range(49):
        milliseconds = random.getrandbits(bits)
        assert time_of(ulid(milliseconds * MILLISECOND, bits)) == milliseconds


def test_the_random_parts_are_different_and_use_all_characters_alike():
    made = [ulid(0, serial) for serial in range(4_096)]
    assert all(ULID.fullmatch(one) for one in made)
    assert len(set(made)) == len(made)
    counts = Counter("".join(one[10:] for one in made))
    assert set(counts) == set(CROCKFORD)
    assert max(counts.values()) < 1.5 * min(counts.values())
