"""The warnings of `behavior learn`: decisions that were left out, and signs of attacks and wrong clocks in the log."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from policyengine.cli.options.behavior import LearningPolicies, warn_of_profiles
from policyengine.cli.output.terminal import Screen
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.behavior.bulk.line_filter import LogTally
    from policyengine.behavior.model import BehaviorModel
    from policyengine.behavior.model_watch import DayJump
    from policyengine.behavior.state import BehaviorState, ModelListener, SettingsOf

MAX_JUMPS = 3  # jumps that are reported


def warn_of_gaps(counts: LogTally, known: LearningPolicies, state: BehaviorState) -> None:
    """Warn on stderr about decisions that were left out, and about profiles that are not known."""
    screen = Screen(sys.stderr)
    left_out: Mapping[str, int] = {
        "do not state the class of their caller: name the policies with `--policies`": counts.unknown,
        "are dated more than a day before a preceding decision of their caller: sort the log by time": counts.late,
        "have a time in the future: set the clock of the machine that wrote them": counts.future,
    }
    for why, count in left_out.items():
        if count:
            screen.warn(f"left out {pluralize(count, 'decision')} that {why}")
    unnamed = sum(not found.group for found in state.rows.values())
    if unnamed and known.engine is not None:
        screen.warn(
            f"no profile and no agent block of the policies names {pluralize(unnamed, 'caller')}: check that the log "
            "comes from these policies"
        )
    warn_of_profiles(known.engine, {found.group for found in state.rows.values()})


def jump_listener(jumps: list[DayJump]) -> ModelListener:
    """Return a listener for a state, which adds each jump of the days to a list."""
    from policyengine.behavior.model_watch import find_jump

    def listen(before: BehaviorModel, model: BehaviorModel, rows: object, settings_of: SettingsOf) -> None:
        jump = find_jump(before, model, settings_of)
        if jump is not None:
            jumps.append(jump)

    return listen


def warn_of_attacks(state: BehaviorState, known: LearningPolicies, jumps: Sequence[DayJump]) -> None:
    """Warn about margins that an attack in the log may have caused, and about times that a wrong clock may have
    caused."""
    from policyengine.behavior.model_watch import describe_margins, format_day, high_classes

    screen, model = Screen(sys.stderr), state.model
    for learned in high_classes(model):
        margin = describe_margins(learned, model, state.taught_rows(), known.settings_of)
        day = "TIME" if margin.level is None else format_day(margin.level.day)
        screen.warn(f"{margin}. If this was an attack, leave it out: learn into a new folder with `--until {day}`")
    for jump in jumps[:MAX_JUMPS]:
        screen.warn(f"{jump}. If a clock was wrong, leave these decisions out: `--until`, `--since`")
