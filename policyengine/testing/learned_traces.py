"""Behavior in tests: what is learned from the traces that a test gives, and from its own requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from policyengine import kernel as k
from policyengine.behavior.events import ALLOWED, DENIED, HELD, NO_RUN, BehaviorEvent, Caller, Tagger
from policyengine.behavior.model import BehaviorModel
from policyengine.behavior.plain_events import PlainEvent, read_plain_events
from policyengine.behavior.reader import FAILED_STATUS, BehaviorReader
from policyengine.behavior.row import pack_row, unpack_row
from policyengine.behavior.state import BehaviorState, CallerRow
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.compiler.endpoint_patterns import EndpointPatterns
from policyengine.compiler.evaluator import Evaluator
from policyengine.runtime.request import Request, RequestError

KEY: Final = b"tests"
MAX_CACHED: Final = 64  # folded traces
OUTCOMES: Final = {"": ALLOWED, "allow": ALLOWED, "deny": DENIED, "throttle": HELD, "confirm": HELD}

PackedState = tuple[dict[Caller, tuple[str, bytes]], BehaviorModel]
_folded: dict[tuple[object, ...], PackedState] = {}


def learn_traces(paths: Sequence[Path], until: int, evaluator: Evaluator) -> BehaviorReader:
    """Return a reader that has learned from the events of the traces before a time in milliseconds. Raises
    PlainEventError."""
    kernel, patterns = evaluator.kernel, EndpointPatterns(evaluator.tree)
    tracker = BehaviorTracker(BehaviorState(Tagger(KEY)))
    reader = BehaviorReader(kernel, patterns, evaluator.program, tracker, logs=False)
    key = until, *trace_key(paths, kernel, patterns)
    known = _folded.get(key)
    if known is None:
        events = [event for path in paths for event in read_plain_events(path) if event.at < until]
        for event in sorted(events, key=lambda event: event.at):
            fold_plain_event(event, reader, tracker.state)
        rows = {caller: (found.group, pack_row(found.row)) for caller, found in tracker.state.rows.items()}
        if len(_folded) >= MAX_CACHED:
            _folded.clear()
        known = _folded[key] = rows, tracker.state.model
    packed, tracker.state.model = known
    tracker.state.rows = {caller: CallerRow(group, unpack_row(raw)) for caller, (group, raw) in packed.items()}
    return reader


def trace_key(paths: Sequence[Path], kernel: k.Kernel, patterns: EndpointPatterns) -> tuple[object, ...]:
    """Return everything on which the result of folding the traces depends."""
    files = tuple((str(path), path.stat().st_mtime_ns) for path in paths)
    return files, kernel.profiles, tuple((block.label, block.who) for block in kernel.agents), patterns.all()


def fold_plain_event(event: PlainEvent, reader: BehaviorReader, state: BehaviorState) -> None:
    """Fold a plain event, as a reader would name its caller and endpoint, into a state."""
    group, profile = reader.classes.find(event.agent, None)
    caller = Caller(event.issuer, event.agent, event.instance)
    run = state.tagger.tag(event.run) if event.run and profile.run_key is not None else NO_RUN
    endpoint = declared_endpoint(event.endpoint, reader)
    outcome = OUTCOMES.get(event.outcome, ALLOWED)
    state.fold(BehaviorEvent(event.at, caller, group, endpoint, run, outcome), reader.settings_of)
    if outcome == ALLOWED and event.status >= FAILED_STATUS:
        state.fold_failure(caller)


def declared_endpoint(text: str, reader: BehaviorReader) -> str:
    """Return the declared pattern that a request matches (`GET /data/7`), or the text itself."""
    word, _, rest = text.partition(" ")
    server, _, name = rest.rpartition("/")
    tool = {"tool": {"name": name, **({"server": server} if server else {})}}
    question = tool if word == "TOOL" else {"request": {"method": word, "path": rest}}
    try:
        return reader.endpoint_of(Request.from_mapping(question)) or text
    except RequestError:
        return text
