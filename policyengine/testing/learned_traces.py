"""Behavior in tests: what is learned from the traces that a test gives, and from its own requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from policyengine import kernel as k
from policyengine.behavior.events import Caller, Tagger
from policyengine.behavior.lockstep.detection import LockstepError, require_numpy
from policyengine.behavior.model import BehaviorModel
from policyengine.behavior.plain_event_reader import PlainEventReader, declared_endpoint
from policyengine.behavior.plain_events import PlainEventError, read_plain_events
from policyengine.behavior.reader import BehaviorReader
from policyengine.behavior.recent_requests import RecentRequests
from policyengine.behavior.row import pack_row, unpack_row
from policyengine.behavior.state import DAY, BehaviorState, CallerRow
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.compiler.endpoint_patterns import EndpointPatterns
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.tree import Tree
from policyengine.kernel.learned_facts import learned_fact_names

KEY: Final = b"tests"
MAX_CACHED: Final = 64  # folded traces
MAX_NIGHTS: Final = 60  # nights after the last event; groups are forgotten earlier

PackedState = tuple[dict[Caller, tuple[str, bytes]], BehaviorModel]
_patterns: tuple[Tree | None, EndpointPatterns | None] = None, None
_folded: dict[tuple[object, ...], PackedState] = {}


def learn_traces(paths: Sequence[Path], until: int, evaluator: Evaluator) -> BehaviorReader:
    """Return a reader that has learned from the events of the traces before a time in milliseconds. Raises
    PlainEventError."""
    kernel, patterns = evaluator.kernel, patterns_of(evaluator)
    tracker = BehaviorTracker(BehaviorState(Tagger(KEY)))
    tracker.state.searches_inline = True  # other threads do not have the clock of the test
    reader = BehaviorReader(kernel, patterns, evaluator.program, tracker, logs=False)
    if not paths:
        return reader
    key = until, learned_fact_names(kernel), *trace_key(paths, kernel, patterns)
    known = _folded.get(key)
    if known is None:
        events = [event for path in paths for event in read_plain_events(path) if event.at < until]
        if not events:
            names = ", ".join(f"`{path}`" for path in paths)
            raise PlainEventError(f"no event of {names} is before the time of the test")
        readings = PlainEventReader(reader, tracker.state.tagger)
        for event in sorted(events, key=lambda event: event.at):
            tracker.state.fold(found := readings.read(event), reader.settings_of)
            if readings.failed(event):
                tracker.state.fold_failure(found.caller)
        if reader.settings_of("").groups:
            search_each_night(tracker.state, until)
        rows = {caller: (found.group, pack_row(found.row)) for caller, found in tracker.state.rows.items()}
        if len(_folded) >= MAX_CACHED:
            _folded.clear()
        known = _folded[key] = rows, tracker.state.model
    packed, tracker.state.model = known
    tracker.state.requests = RecentRequests()  # as if the traces had been folded for another test before
    tracker.state.rows = {caller: CallerRow(group, unpack_row(raw)) for caller, (group, raw) in packed.items()}
    return reader


def search_each_night(state: BehaviorState, until: int) -> None:
    """Search for groups on each day after the last event, as engines do, up to a time in milliseconds. Raises
    PlainEventError without numpy."""
    try:
        require_numpy()
    except LockstepError as error:
        raise PlainEventError(str(error)) from None
    last = max(state.requests.days, default=0)
    for day in range(max(last + 1, until // DAY - MAX_NIGHTS), until // DAY + 1):
        state.search_groups(day * DAY)


def patterns_of(evaluator: Evaluator) -> EndpointPatterns:
    """Return the patterns of an evaluator. The latest patterns are cached, because each sequence of a test needs
    them."""
    global _patterns
    tree, patterns = _patterns
    if tree is not evaluator.tree or patterns is None:
        patterns = EndpointPatterns(evaluator.tree)
        _patterns = evaluator.tree, patterns
    return patterns


def check_traces(paths: Sequence[Path], evaluator: Evaluator) -> None:
    """Check that the policies name every issuer, agent and endpoint of the traces. Raises PlainEventError."""
    kernel, patterns = evaluator.kernel, EndpointPatterns(evaluator.tree)
    reader = BehaviorReader(kernel, patterns, evaluator.program, BehaviorTracker(), logs=False)
    declared, seen = frozenset(patterns.all()), set[tuple[str, str, str]]()
    for path in paths:
        for event in read_plain_events(path):
            named = event.issuer, event.agent, event.endpoint
            if named in seen:
                continue
            seen.add(named)
            if kernel.issuers and event.issuer not in kernel.issuers:
                raise PlainEventError(f"`{path}`: the policies have no issuer `{event.issuer}`")
            if not reader.classes.find(event.agent)[0]:
                raise PlainEventError(f"`{path}`: no agent block or profile names `{event.agent}`")
            if declared_endpoint(event.endpoint, reader) not in declared:
                raise PlainEventError(f"`{path}`: no pattern of the policies matches `{event.endpoint}`")


def trace_key(paths: Sequence[Path], kernel: k.Kernel, patterns: EndpointPatterns) -> tuple[object, ...]:
    """Return everything on which the result of folding the traces depends."""
    files = tuple((str(path), path.stat().st_mtime_ns) for path in paths)
    return files, kernel.profiles, tuple((block.label, block.who) for block in kernel.agents), patterns.all()
