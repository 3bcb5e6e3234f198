"""A request under construction for one region: endpoint and caller are settled, and finders set everything else."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias
from urllib.parse import quote

from policyengine import kernel as k
from policyengine.analysis.diff.endpoint_classes import EndpointClass
from policyengine.analysis.diff.segment_spellings import splitting_texts
from policyengine.analysis.diff.specialize import DEPTH, SOUND, UNSURE, CallerAssumption, captured_path
from policyengine.runtime.endpoints import ActionEndpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.snapshot import NOT_READABLE
from policyengine.solver.value_partition import SpecialValue
from policyengine.solver.witness.draft_from_states import WRONG_TYPE
from policyengine.solver.witness.editor import DraftEditor
from policyengine.solver.witness.pools import Leaf, ValuePools
from policyengine.solver.witness.values import MINUTE, MONDAY, default_value, sample_values
from policyengine.spec.match_endpoint import match_segment
from policyengine.typesystem import EntityRef, Type
from policyengine.vocabulary import CLUSTER_ID, CLUSTER_SIZE, LEARNED_FACTS, NEUTRAL_VALUES, is_learned_value

FactPath: TypeAlias = tuple[str, ...]
QuestionData: TypeAlias = dict[str, Any]

# Facts that a request does not contain, or that the region settles.
UNWRITABLE_ROOTS = frozenset((SOUND[0], UNSURE, DEPTH, "claimed", "chain", "approval", "params"))
UNWRITABLE_PATHS = frozenset(
    (("agent",), ("user",), ("tool",), ("agent", "id"), ("user", "id"), ("request", "method"), ("request", "path"),
     ("tool", "name"), ("tool", "server"))
)  # fmt: skip


@dataclass(slots=True)
class RegionDraft:
    """A request under construction, with the learned facts of its caller as `behavior`. `rows` are attributes of
    entities, `parents` their memberships, `segments` the segments of the path by index.
    """

    at: EndpointClass
    settled: CallerAssumption
    question: QuestionData = field(default_factory=dict)
    rows: dict[EntityRef, dict[str, Any]] = field(default_factory=dict)
    parents: dict[EntityRef, list[EntityRef]] = field(default_factory=dict)
    segments: dict[int, str] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    now: datetime = MONDAY

    @property
    def editor(self) -> DraftEditor:
        return DraftEditor(self, ValuePools(usual=self.usual_values, step=MINUTE))

    def usual_values(self, leaf: Leaf, _: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the values of a leaf to try first; for `task.tools`, only the called tool, because the task must allow
        the call."""
        if isinstance(leaf, k.Fact) and leaf.path == ("task", "tools"):
            endpoint = self.at.endpoint
            return ((endpoint.qualified,) if isinstance(endpoint, ToolEndpoint) else (),)
        return (default_value(leaf.type), *sample_values(leaf.type))

    # ── Facts ─────────────────────────────────────────────────────────────────────────────────

    def read_fact(self, path: FactPath, type_: Type) -> Any:
        match path:
            case ("segment", number, prefix, suffix, *_):
                text = self.segments.get(int(number)) or self.segment_text(int(number))
                captured = match_segment(k.Segment(prefix, True, suffix), text, "full")
                return captured if isinstance(captured, str) else None
            case ("resource", name, *place) if place:
                return EntityRef(name, str(self.read_fact(tuple(place), type_)))
            case ("resource", name):
                return EntityRef(name, str(self.question.get("resource", {}).get("id", "x")))
            case ("time",):
                return self.now
            case ("tool",) if isinstance(self.at.endpoint, ToolEndpoint):
                return EntityRef("tool", self.at.endpoint.qualified)
            case ("", "issuer"):
                return self._read(("credential", "issuer"))
            case ("agent" | "user",):
                return None
            case (root, name) if path in LEARNED_FACTS:
                known = self.question.get(root, {}).get(name, NEUTRAL_VALUES.get(path))
                return None if known is NOT_READABLE else known
            case _:
                return self._read(path)

    def _read(self, path: FactPath) -> Any:
        """Return the value in the request; None if it has the wrong type."""
        below: Any = self.question
        for name in path:
            below = below.get(name) if isinstance(below, dict) else None
        return None if below is WRONG_TYPE else below

    def write_fact(self, path: FactPath, value: Any) -> bool:
        match path:
            case ("", "issuer"):
                if self.settled.agent is not SpecialValue.ABSENT:
                    self._write(("agent", "issuer"), value)
                return self._write(("credential", "issuer"), value)
            case ("segment", number, prefix, suffix, *_):
                return self.write_segment(int(number), prefix, suffix, value)
            case ("resource", _, *place) if place and isinstance(value, EntityRef):
                return self.write_fact(tuple(place), value.id)
            case ("resource", _) if isinstance(value, EntityRef):
                return self._write(("resource", "id"), value.id)
            case ("time",):
                self.now = value if isinstance(value, datetime) else self.now
                return isinstance(value, datetime)
            case _ if path in LEARNED_FACTS:
                return self._write(path, learned_value(path, value))
            case _ if path[0] in UNWRITABLE_ROOTS or path in UNWRITABLE_PATHS:
                return False
            case ("tool", _) if not isinstance(self.at.endpoint, ToolEndpoint):
                return False
            case _:
                return self._write(path, value)

    def _write(self, path: FactPath, value: Any) -> bool:
        if path[0] == "agent" and self.settled.agent is SpecialValue.ABSENT:
            return False
        below = self.question
        for name in path[:-1]:
            inner = below.setdefault(name, {})
            if not isinstance(inner, dict):
                return False
            below = inner
        below[path[-1]] = value
        return True

    def remove_fact(self, path: FactPath) -> bool:
        below: Any = self.question
        for name in path[:-1]:
            below = below.get(name) if isinstance(below, dict) else None
        return isinstance(below, dict) and below.pop(path[-1], None) is not None

    def write_segment(self, number: int, prefix: str, suffix: str, value: object) -> bool:
        as_here = self.segment_text(number)  # in any letter case
        start, end = as_here[: len(prefix)], as_here[len(as_here) - len(suffix) :]
        texts = [f"{start}{value}{end}", f"{prefix.replace('i', 'ı')}{value}{suffix.replace('i', 'ı')}"]
        segment = k.Segment(prefix, True, suffix)
        fitting = (text for text in texts if match_segment(segment, text, "full") == value)
        return self.set_segment(number, next(fitting, texts[0]))

    def split_capture(self, path: FactPath) -> bool:
        """Make a capture invalid, so that it begins or ends within a character. Return whether some text does that."""
        captured = captured_path(path)
        assert captured is not None
        _, number, prefix, suffix, *_ = captured
        texts = splitting_texts(k.Segment(prefix, True, suffix))
        return any(self.set_segment(int(number), text) for text in texts)

    def set_segment(self, number: int, text: str) -> bool:
        spelled = self.at.spelled.get(number)
        if spelled is not None and text not in spelled:
            return False
        self.segments[number] = text
        return True

    def segment_text(self, number: int) -> str:
        endpoint = self.at.endpoint
        return endpoint.segments[number] if isinstance(endpoint, HttpEndpoint) else "x"

    # ── Entities ──────────────────────────────────────────────────────────────────────────────

    def read_attribute(self, holder: EntityRef, name: str, type_: Type) -> Any:
        value = self.rows.get(holder, {}).get(name)
        return None if value is WRONG_TYPE else value

    def write_attribute(self, holder: EntityRef, name: str, value: Any) -> bool:
        self.rows.setdefault(holder, {})[name] = value
        return True

    def remove_attribute(self, holder: EntityRef, name: str) -> bool:
        return self.rows.get(holder, {}).pop(name, None) is not None

    def has_row(self, ref: EntityRef) -> bool:
        return ref in self.rows

    def add_row(self, ref: EntityRef) -> None:
        self.rows.setdefault(ref, {})

    def remove_row(self, ref: EntityRef) -> None:
        self.rows.pop(ref, None)

    def add_parent(self, child: EntityRef, parent: EntityRef) -> None:
        above = self.parents.setdefault(child, [])
        if parent not in above:
            above.append(parent)

    def remove_parent(self, child: EntityRef, parent: EntityRef) -> None:
        self.parents[child] = [one for one in self.parents.get(child, ()) if one != parent]

    # ── The request ─────────────────────────────────────────────────────────────────────────────

    def request(self) -> QuestionData:
        """Return the request with its endpoint, its caller and the rows it needs."""
        request = deepcopy(self.question)
        match self.at.endpoint:
            case HttpEndpoint(method, _, segments):
                texts = [self.segments.get(number, text) for number, text in enumerate(segments)]
                path = "/" + "/".join(map(quote_segment, texts))
                request.setdefault("request", {}).update(method=method, path=path)
            case ToolEndpoint(server, tool):
                named = {"name": tool} if server is None else {"server": server, "name": tool}
                request.setdefault("tool", {}).update(named)
            case ActionEndpoint(verb, type_):
                request["action"] = {"name": verb}
                request["resource"] = {"type": type_, "id": request.get("resource", {}).get("id", "x")}
        for root, name in (("agent", self.settled.agent), ("user", self.settled.user)):
            if name is not SpecialValue.ABSENT:
                request.setdefault(root, {})["id"] = name if isinstance(name, str) else WRONG_TYPE
        if rows := list(self._entities()):
            request["entities"] = rows
        return request

    def _entities(self) -> Iterator[QuestionData]:
        for ref, attributes in self.rows.items():
            above = [{"type": one.type, "id": one.id} for one in self.parents.get(ref, ())]
            row: QuestionData = {"type": ref.type, "id": ref.id}
            says = attributes or above or ref in self.parents or not self.at.words
            yield {**row, "attributes": attributes, "in": above} if says else row


def learned_value(path: FactPath, value: Any) -> Any:
    """Return a valid value of a learned fact: the nearest number in its range, or `NOT_READABLE` for a wrong type."""
    if value is WRONG_TYPE:
        return NOT_READABLE
    if is_learned_value(path, value) or path == CLUSTER_ID:
        return value
    return max(int(value), 1) if path == CLUSTER_SIZE else min(max(value, 0), 1)


def quote_segment(segment: str) -> str:
    return quote(segment, safe="!$&'()*+,=:@~-._")
