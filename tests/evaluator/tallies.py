"""How many questions each source asks, and how often each case must occur among them.

Each shard asks its questions of other policies. The counts are about half of what occurs, so that a change of a
generator which removes a case fails.
"""

from __future__ import annotations

from typing import NamedTuple


class Share(NamedTuple):
    """The questions of one shard of a source: so many to the policy of each seed."""

    seeds: range
    questions: int

    def __str__(self) -> str:
        return f"{self.seeds.start}"


# By source: shards, policies of each, questions to each.
SHARES: dict[str, tuple[int, int, int]] = {
    "anything": (1, 40, 60),
    "chains": (1, 15, 55),
    "bindings": (1, 6, 160),
    "credentials": (1, 13, 120),
    "elements": (1, 13, 80),
    "history": (1, 13, 120),
    "learned": (1, 16, 100),
    "payments": (1, 13, 80),
}
FIRST_SEED = 500
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
        "outcome allow": 248, "outcome confirm": 18, "outcome deny": 620, "outcome throttle": 1,
        "gate None": 248, "gate identity": 124, "gate default": 248, "gate user": 93, "gate chain": 37,
        "gate task": 37, "gate guard": 62, "gate malformed_path": 24, "refused": 62,
        "obligation audit": 18, "obligation header": 1, "obligation notify": 12, "obligation redact": 2,
        "obligation step_up": 3, "obligation warn": 6, "obligation consume": 2,
        "remedy approval": 18, "remedy attestation": 1, "remedy facts": 4, "remedy scope": 24, "remedy task": 62,
        "remedy wait": 1, "effect opens": 18, "effect spends": 1, "effect ratecharges": 6,
        "pending allow": 18, "pending deny": 49, "unknown absent": 111, "unknown pending": 3, "unknown expected": 4,
        "unknown otherwise": 124, "rows in the request allow": 1, "rows in the request deny": 9,
        "path in another case, bound": 37, "path in another case, guarded": 37,
        "quantifier any": 93, "quantifier all": 93, "quantifier over no element": 31,
    },
    "chains": {
        "chain of two hops or more that passes": 62, "chain of two hops or more that does not pass": 62,
        "gate chain": 62, "quantifier any": 186, "quantifier all": 155, "remedy attestation": 3, "outcome throttle": 4,
        "unknown expected": 18, "gate task": 12,
    },
    "bindings": {
        "path in another case, bound": 37, "path in another case, guarded": 40, "outcome allow": 55,
        "reason guard deny": 62, "unknown not in Unicode NFC": 1,
    },
    "credentials": {
        "gate chain": 93, "gate identity": 310, "gate user": 55, "gate guard": 21, "outcome allow": 155,
        "chain of two hops or more that passes": 3, "chain of two hops or more that does not pass": 37,
        "remedy credential": 9, "remedy attestation": 1, "obligation header": 27, "obligation step_up": 2,
        "pending allow": 9, "pending deny": 43, "unknown pending": 6, "unknown expected": 12,
    },
    "elements": {
        "quantifier any": 62, "quantifier all": 60, "quantifier over no element": 9, "outcome confirm": 24,
        "unknown expected": 37, "outcome allow": 310, "outcome deny": 186,
    },
    "history": {
        "aggregate of events": 21, "aggregate of nothing": 248, "aggregate unknown": 2, "outcome not reported": 18,
        "condition on history True": 9, "condition on history False": 310, "condition on history unknown": 37,
        "effect records": 217, "effect counts a denial": 74, "gate guard": 111, "outcome allow": 372,
        "outcome confirm": 37,
    },
    "learned": {
        "learned outcome allow": 496, "learned outcome confirm": 17, "learned outcome deny": 68,
        "learned gate guard": 68, "learned effect ratecharges": 99,
        "learned obligation warn": 4, "learned unknown expected": 12, "learned unknown otherwise": 12,
    },
    "payments": {
        "outcome allow": 62, "outcome confirm": 62, "outcome deny": 62, "outcome throttle": 31, "gate rate": 31,
        "gate budget": 7, "effect ratecharges": 62, "effect budgetcharges": 62, "effect concurrencycharges": 55,
        "effect charges a confirm": 37, "effect opens": 93, "effect spends": 24, "effect counts a denial": 18,
        "obligation consume": 24, "remedy wait": 31,
    },
}  # fmt: skip


def cases_of(shares: dict[str, tuple[int, int, int]], first: int = FIRST_SEED) -> list[tuple[str, Share]]:
    """Return each shard with its source."""
    return [
        (source, Share(range(start, start + policies), questions))
        for source, (shards, policies, questions) in shares.items()
        for start in range(first, first + shards * policies, policies)
    ]
