"""The parts of a rate per `cluster.id`: together they are never more than the rate or the sum of the floors."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from policyengine.entities.store import EntityStore
from policyengine.runtime.limits import LimitCharge, RateCharge
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec import reference
from tests.spec.deciding import NOW, kernel

ASKED = Request.from_mapping({"agent": {"id": "bot", "issuer": "acme"}, "request": {"method": "GET", "path": "/x"}})
WINDOWS = {"1s": 1, "7s": 7, "1m": 60, "1h": 3_600}


def charge_of(rate: str, size: int) -> LimitCharge:
    """Return the charge of a member of a group to a rate with these items."""
    text = 'issuer acme { scopes none }\nagent "bot" { issued by acme  acts alone  may GET /x }\n'
    text += f'rate "r" per cluster.id {{ {rate} }}\n'
    snapshot = Snapshot(EntityStore(), behavior={"cluster.id": "ring", "cluster.size": size})
    [found] = reference.decide(kernel(text), ASKED, snapshot, NOW)[1].limits
    return found


def pace(charge: object) -> Fraction:
    """Return the pace of a charge in tokens per microsecond."""
    assert isinstance(charge, RateCharge)
    return Fraction(charge.flow.drain, charge.token * charge.tick)


@given(
    st.integers(1, 1_000), st.sampled_from(sorted(WINDOWS)), st.integers(1, 1_000), st.sampled_from(sorted(WINDOWS)),
    st.integers(1, 500), st.integers(2, 100),
)  # fmt: skip
def test_the_parts_are_never_more_than_the_rate_or_the_floors(count, within, least, window, burst, size):
    if Fraction(least, WINDOWS[window]) > Fraction(count, WINDOWS[within]):
        return  # an error of the checker
    found = charge_of(f"{count}/{within} burst {burst}  floor {least}/{window}", size)
    alone = charge_of(f"{count}/{within} burst {burst}  floor {least}/{window}", 1)
    whole, floors = pace(alone.charge), size * Fraction(least, WINDOWS[window] * 1_000_000)
    assert whole == Fraction(count, WINDOWS[within] * 1_000_000)
    if found.own is None:
        assert floors >= whole
        assert pace(found.charge) == floors / size
        return
    assert pace(found.own.charge) == floors / size
    assert pace(found.charge) + floors == whole
    assert found.charge.flow.most >= 1
    assert found.charge.flow.most + size * found.own.charge.flow.most <= max(burst, size * least) + size + 1


def test_a_clamp_applies_to_both_parts_and_a_raise_to_the_shared_one():
    found = charge_of(
        "40/1m  floor 4/1m  raise x2 at most 80/1m when cluster.size == 2  clamp 2/1m when cluster.size > 1", 2
    )
    assert found.own is not None
    assert (found.charge.flow.most, found.own.charge.flow.most) == (80 - 2 * 4, 4)
    assert found.charge.clamps == found.own.charge.clamps
    assert found.charge.clamps[0].acts


def test_costs_and_counts_from_facts_are_divided_too():
    found = charge_of("40/1m  floor 4/1m  counting denials", 3)
    assert found.own is not None
    assert found.charge.counts
    assert found.own.charge.counts
    assert found.own.charge.rule == f"{found.charge.rule}#floor"
