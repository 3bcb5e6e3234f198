"""The rows of callers that processes learn together: their form in a store, and the folding of later events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from time import monotonic
from typing import NamedTuple

from msgspec import MsgspecError, msgpack

from policyengine.behavior.events import FAILED, MAX_TIME, RequestTags
from policyengine.behavior.fold import (
    FLAGGED,
    CallerFacts,
    ProfileSettings,
    advance,
    apply_decision,
    apply_failure,
    begins_run,
    current_step,
    set_limits,
)
from policyengine.behavior.row import (
    MAX_COUNT,
    MAX_LEVEL,
    MAX_SHORT,
    ROW_VERSIONS,
    BehaviorRow,
    RowError,
    pack_row,
    unpack_row,
)
from policyengine.behavior.state import SettingsOf
from policyengine.kernel.sequence_automaton import START
from policyengine.runtime.behavior import CallerEvent, CallerHistory
from policyengine.stores.behavior import UnreadableBehaviorError

READY, NEW, BURST, RELEASED, DEVIATES = 1, 2, 4, 8, 16  # flags in the content of an event


class SavedCaller(NamedTuple):
    """The row of a caller in the store, with its class. `agent` is a keyed hash of the agent's name."""

    issuer: str
    agent: str
    group: str
    row: BehaviorRow


class CachedCaller:
    """The row of a caller after all events that this process knows. The row that is saved in the store contains the
    first `base` of these events. `synced` is the time of the store's latest answer about the caller."""

    __slots__ = ("base", "row", "synced")

    def __init__(self, row: BehaviorRow, base: int) -> None:
        self.row, self.base, self.synced = row, base, monotonic()


def fold_event(row: BehaviorRow, event: CallerEvent, settings: ProfileSettings) -> None:
    """Fold an event into a row, with the levels from the store and the facts that the decision read. Raises
    UnreadableBehaviorError for an event that no process of policyengine adds."""
    if not is_possible(event):
        raise UnreadableBehaviorError("an event of a caller is damaged")
    if event.outcome == FAILED:
        apply_failure(row)
        return
    try:
        endpoint, run, flags, *more = event.content
        shape, letter, surprise = more or (0, 0, 0)  # an earlier version added three numbers
    except ValueError:
        raise UnreadableBehaviorError("an event of a caller has another format") from None
    if flags & RELEASED:
        settings = settings.release()
    advance(row, event.at, settings)
    if row.limits_hour != row.hour:
        set_limits(row, settings)
    tags, automaton = RequestTags(endpoint, run, shape, letter), settings.automaton
    reading = CallerFacts(
        ready=bool(flags & READY), trust=0, burst=bool(flags & BURST), novelty=0, error_rate=0,
        is_new=bool(flags & NEW), level_slow=event.slow, level_fast=event.fast, level_denied=event.denied,
        deviation=FLAGGED if flags & DEVIATES else 0, surprise=min(surprise, MAX_SHORT),
        step=START if automaton is None else current_step(row, automaton, begins_run(row, event.at, run, settings)),
    )  # fmt: skip
    apply_decision(row, reading, tags, event.at, event.outcome, event.clamped, settings)


def is_possible(event: CallerEvent) -> bool:
    """Return whether an event has a time, levels and numbers that a row can contain."""
    content, levels = event.content, event[1:4]
    if content and (min(content) < 0 or max(content) > MAX_COUNT):
        return False
    return 0 <= event.at <= MAX_TIME and min(levels) >= 0 and max(levels) <= MAX_LEVEL


def end_release(settings: ProfileSettings) -> ProfileSettings:
    """Return the settings without a planned change, for events that have their own flag."""
    return settings.release(False) if settings.released else settings


def fold_history(history: CallerHistory, settings: ProfileSettings) -> CachedCaller | None:
    """Return the row of a caller after all of its events; None if the store knows nothing about it. If the saved row is
    lost, the row starts as that of a new caller. Raises UnreadableBehaviorError."""
    saved = decode_saved(history.row or b"")
    if saved is not None:
        row = saved.row
    elif history.events:
        row = BehaviorRow(history.events[0].at)
    else:
        return None
    row.serial = history.base
    for event in history.events:
        fold_event(row, event, settings)
    return CachedCaller(row, history.base)


def load_callers(
    histories: Iterable[tuple[str, CallerHistory | None]], settings_of: SettingsOf
) -> Iterator[tuple[str, SavedCaller | None]]:
    """Yield each caller with a saved row, with its row after all of its events; None for a damaged caller. A history of
    None is damaged."""
    for key, history in histories:
        try:
            saved = None if history is None else decode_saved(history.row or b"")
            known = None if saved is None or history is None else fold_history(history, settings_of(saved.group))
        except UnreadableBehaviorError:
            history = known = saved = None
        if history is None:
            yield key, None
        elif saved is not None and known is not None:
            yield key, saved._replace(row=known.row)


def decode_rows(histories: Iterable[tuple[str, CallerHistory | None]]) -> Iterator[SavedCaller]:
    """Yield the saved rows that can be decoded."""
    for _, history in histories:
        with suppress(UnreadableBehaviorError):
            saved = None if history is None else decode_saved(history.row or b"")
            if saved is not None:
                yield saved


def encode_saved(issuer: str, agent: str, group: str, row: BehaviorRow) -> bytes:
    return msgpack.encode((issuer, agent, group, pack_row(row)))


def decode_saved(raw: bytes) -> SavedCaller | None:
    """Decode a saved row; None if there is no row, or if its format has another version. Raises
    UnreadableBehaviorError."""
    if not raw:
        return None
    try:
        issuer, agent, group, packed = msgpack.decode(raw, type=tuple[str, str, str, bytes])
        return SavedCaller(issuer, agent, group, unpack_row(packed)) if packed[0] in ROW_VERSIONS else None
    except (MsgspecError, RowError, IndexError) as error:
        raise UnreadableBehaviorError(f"the row of a caller is damaged: {error}") from None
