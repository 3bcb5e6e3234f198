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
    "anything": (1, 40, 80),
    "chains": (1, 15, 85),
    "bindings": (1, 8, 160),
    "credentials": (1, 19, 120),
    "elements": (1, 20, 80),
    "history": (1, 19, 120),
    "learned": (1, 25, 100),
    "payments": (1, 20, 80),
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
        "outcome allow": 400, "outcome confirm": 30, "outcome deny": 1_000, "outcome throttle": 1,
        "gate None": 400, "gate identity": 200, "gate default": 400, "gate user": 150, "gate chain": 60,
        "gate task": 60, "gate guard": 100, "gate malformed_path": 40, "refused": 100,
        "obligation audit": 30, "obligation header": 3, "obligation notify": 20, "obligation redact": 4,
        "obligation step_up": 5, "obligation warn": 10, "obligation consume": 4,
        "remedy approval": 30, "remedy attestation": 1, "remedy facts": 8, "remedy scope": 40, "remedy task": 100,
        "remedy wait": 1, "effect opens": 30, "effect spends": 2, "effect ratecharges": 10,
        "pending allow": 30, "pending deny": 80, "unknown absent": 180, "unknown pending": 6, "unknown expected": 8,
        "unknown otherwise": 200, "rows in the request allow": 2, "rows in the request deny": 15,
        "path in another case, bound": 60, "path in another case, guarded": 60,
        "quantifier any": 150, "quantifier all": 150, "quantifier over no element": 50,
    },
    "chains": {
        "chain of two hops or more that passes": 100, "chain of two hops or more that does not pass": 100,
        "gate chain": 100, "quantifier any": 300, "quantifier all": 250, "remedy attestation": 5, "outcome throttle": 7,
        "unknown expected": 30, "gate task": 20,
    },
    "bindings": {
        "path in another case, bound": 60, "path in another case, guarded": 120, "outcome allow": 90,
        "reason guard deny": 100, "unknown not in Unicode NFC": 3,
    },
    "credentials": {
        "gate chain": 150, "gate identity": 500, "gate user": 90, "gate guard": 35, "outcome allow": 250,
        "chain of two hops or more that passes": 5, "chain of two hops or more that does not pass": 60,
        "remedy credential": 15, "remedy attestation": 3, "obligation header": 45, "obligation step_up": 7,
        "pending allow": 15, "pending deny": 70, "unknown pending": 10, "unknown expected": 20,
    },
    "elements": {
        "quantifier any": 100, "quantifier all": 200, "quantifier over no element": 15, "outcome confirm": 40,
        "unknown expected": 60, "outcome allow": 500, "outcome deny": 300,
    },
    "history": {
        "aggregate of events": 35, "aggregate of nothing": 400, "aggregate unknown": 30, "outcome not reported": 30,
        "condition on history True": 15, "condition on history False": 500, "condition on history unknown": 60,
        "effect records": 350, "effect counts a denial": 120, "gate guard": 180, "outcome allow": 600,
        "outcome confirm": 60,
    },
    "learned": {
        "learned outcome allow": 800, "learned outcome confirm": 28, "learned outcome deny": 110,
        "learned gate guard": 110, "learned effect ratecharges": 160,
        "learned obligation warn": 7, "learned unknown expected": 20, "learned unknown otherwise": 20,
    },
    "payments": {
        "outcome allow": 100, "outcome confirm": 100, "outcome deny": 100, "outcome throttle": 50, "gate rate": 50,
        "gate budget": 12, "effect ratecharges": 100, "effect budgetcharges": 100, "effect concurrencycharges": 90,
        "effect charges a confirm": 60, "effect opens": 150, "effect spends": 40, "effect counts a denial": 30,
        "obligation consume": 40, "remedy wait": 50,
    },
}  # fmt: skip


def cases_of(shares: dict[str, tuple[int, int, int]], first: int = FIRST_SEED) -> list[tuple[str, Share]]:
    """Return each shard with its source."""
    return [
        (source, Share(range(start, start + policies), questions))
        for source, (shards, policies, questions) in shares.items()
        for start in range(first, first + shards * policies, policies)
    ]
