"""The limits of the levels of a caller, for a store that processes share."""

from __future__ import annotations

from typing import Final

from policyengine.behavior.fold import MARGIN_UNIT, MAX_CEILINGS, PEAK_UNIT, ProfileSettings, highest_usual
from policyengine.behavior.row import MAX_LEVEL
from policyengine.behavior.state import DAY, CallerSnapshot

NO_LIMIT: Final = 2 * MAX_LEVEL  # above every sum of two levels


def kept_milliseconds(settings: ProfileSettings) -> int:
    """Return how long a store keeps an inactive caller, in milliseconds."""
    return (settings.learn_days + 1) * DAY


def level_limits(reading: CallerSnapshot) -> tuple[int, int]:
    """Return the levels above which the request is a burst; unreachable levels unless the caller is ready."""
    model = reading.model.class_of((reading.caller.issuer, reading.group))
    if not (reading.facts.ready and model.has_margins) or reading.settings.released:
        return NO_LIMIT, NO_LIMIT
    row = reading.row
    return (
        min(highest_usual(row.base_slow, row.ceiling_slow, model.margin_slow) * PEAK_UNIT // MARGIN_UNIT, NO_LIMIT),
        min(highest_usual(row.base_fast, row.ceiling_fast, model.margin_fast) * PEAK_UNIT // MARGIN_UNIT, NO_LIMIT),
    )


def level_caps(reading: CallerSnapshot) -> tuple[int, int]:
    """Return the maximum levels after a burst."""
    if not reading.facts.ready:
        return MAX_LEVEL, MAX_LEVEL
    most = MAX_CEILINGS * PEAK_UNIT
    return most * reading.row.ceiling_slow, most * reading.row.ceiling_fast
