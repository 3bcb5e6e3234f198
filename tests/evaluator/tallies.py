"""How many questions each source asks, and how often each case must occur among them.

Each shard asks its questions of other policies. The counts are about half of what occurs, so that a change of a
generator which removes a case fails.
"""

from __future__ import annotations

from typing import NamedTuple


class Share(NamedTuple):
    """The questions of one shard of a source: so many to the policy of each seed."""

    seeds: tuple[int, ...]
    questions: int

    def __str__(self) -> str:
        return f"{self.seeds[0]}"


# By source: shards, policies of each, questions to each.
SHARES: dict[str, tuple[int, int, int]] = {
    "anything": (1, 24, 45),
    "chains": (1, 9, 45),
    "bindings": (1, 5, 90),
    "credentials": (1, 13, 65),
    "elements": (1, 10, 60),
    "history": (1, 9, 100),
    "learned": (1, 8, 80),
    "payments": (1, 9, 60),
}
FIRST_SEED = 500
# Further policies of the last shard, whose questions are rare cases.
RARE: dict[str, tuple[int, ...]] = {
    "anything": (490, 491, 529),
    "chains": (511,),
    "bindings": (507,),
    "learned": (513, 517),
}
# The same for `make test-deep`: a million questions.
DEEP_SHARES: dict[str, tuple[int, int, int]] = {
    "anything": (10, 50, 800),
    "chains": (2, 50, 800),
    "bindings": (3, 50, 800),
    "credentials": (2, 140, 500),
    "elements": (1, 160, 500),
    "history": (4, 75, 400),
    "learned": (1, 100, 400),
    "payments": (1, 200, 350),
}
FIRST_DEEP_SEED = 10_000

# By source, the least counts of each shard.
LEAST: dict[str, dict[str, int]] = {
    "anything": {
        "outcome allow": 109, "outcome confirm": 15, "outcome deny": 446, "outcome throttle": 5,
        "gate None": 109, "gate identity": 109, "gate default": 180, "gate user": 78, "gate chain": 14,
        "gate task": 16, "gate guard": 46, "gate malformed_path": 16, "refused": 31,
        "obligation audit": 28, "obligation header": 3, "obligation notify": 18, "obligation redact": 1,
        "obligation step_up": 2, "obligation warn": 1, "obligation consume": 5,
        "remedy approval": 15, "remedy attestation": 1, "remedy facts": 2, "remedy scope": 9, "remedy task": 38,
        "remedy wait": 5, "effect opens": 15, "effect spends": 1, "effect ratecharges": 17,
        "pending allow": 7, "pending deny": 26, "unknown absent": 84, "unknown pending": 3, "unknown expected": 5,
        "unknown otherwise": 71, "rows in the request allow": 1, "rows in the request deny": 5,
        "path in another case, bound": 29, "path in another case, guarded": 29,
        "quantifier any": 108, "quantifier all": 31, "quantifier over no element": 11,
    },
    "chains": {
        "chain of two hops or more that passes": 25, "chain of two hops or more that does not pass": 30,
        "gate chain": 32, "quantifier any": 39, "quantifier all": 285, "remedy attestation": 2, "outcome throttle": 6,
        "unknown expected": 13, "gate task": 12,
    },
    "bindings": {
        "path in another case, bound": 28, "path in another case, guarded": 30, "outcome allow": 32,
        "reason guard deny": 48, "unknown not in Unicode NFC": 3,
    },
    "credentials": {
        "gate chain": 55, "gate identity": 185, "gate user": 43, "gate guard": 14, "outcome allow": 92,
        "chain of two hops or more that passes": 2, "chain of two hops or more that does not pass": 18,
        "remedy credential": 3, "remedy attestation": 2, "obligation header": 30, "obligation step_up": 1,
        "pending allow": 5, "pending deny": 27, "unknown pending": 4, "unknown expected": 10,
    },
    "elements": {
        "quantifier any": 66, "quantifier all": 26, "quantifier over no element": 23, "outcome confirm": 22,
        "unknown expected": 14, "outcome allow": 189, "outcome deny": 88,
    },
    "history": {
        "aggregate of events": 29, "aggregate of nothing": 132, "aggregate unknown": 1, "outcome not reported": 46,
        "condition on history True": 10, "condition on history False": 159, "condition on history unknown": 9,
        "effect records": 179, "effect counts a denial": 53, "gate guard": 36, "outcome allow": 292,
        "outcome confirm": 13,
    },
    "learned": {
        "learned outcome allow": 354, "learned outcome confirm": 4, "learned outcome deny": 42,
        "learned gate guard": 34, "learned effect ratecharges": 44,
        "learned obligation warn": 15, "learned unknown expected": 4, "learned unknown otherwise": 7,
    },
    "payments": {
        "outcome allow": 68, "outcome confirm": 67, "outcome deny": 67, "outcome throttle": 67, "gate rate": 57,
        "gate budget": 10, "effect ratecharges": 90, "effect budgetcharges": 142, "effect concurrencycharges": 72,
        "effect charges a confirm": 48, "effect opens": 113, "effect spends": 19, "effect counts a denial": 18,
        "obligation consume": 28, "remedy wait": 67,
    },
}  # fmt: skip


def cases_of(shares: dict[str, tuple[int, int, int]], first: int = FIRST_SEED) -> list[tuple[str, Share]]:
    """Return each shard with its source."""
    return [
        (source, Share((*range(start, start + policies), *rare), questions))
        for source, (shards, policies, questions) in shares.items()
        for start in range(first, first + shards * policies, policies)
        for rare in [RARE.get(source, ()) if shares is SHARES else ()]
    ]
