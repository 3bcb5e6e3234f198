"""`shape`: how many attacks on payloads are seen, at how many false alarms, and the cost.

The profile of fields is learned from benign payloads only: half of them teach, a quarter calibrates, and a quarter is
tested. An attack is a tested payload in which one field, drawn by a seed, has the payload of a list in place of its
value (`replaced`), or after it (`appended`). Everything but the cost is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from time import process_time
from typing import Any, Final, NamedTuple

from bench.report import Section, Target
from bench.shape_traffic import FREE_TEXT, Body, attack_lists, public_records, simulated
from bench.trial import format_number
from policyengine.behavior.events import Tagger
from policyengine.behavior.field_marks import payload_marks
from policyengine.behavior.field_profile import SCALE, Payload, PayloadCounts, PayloadProfile, learn_profile
from policyengine.behavior.known_shapes import class_shapes, is_new_shape, learn_shape
from policyengine.behavior.model import ClassModel
from policyengine.behavior.row import BehaviorRow
from policyengine.behavior.shape import structure_tag

PRINCIPALS: Final = 8
PAYLOADS: Final = 4_000  # of each simulated endpoint
DECLARED: Final = 0.01  # of usual payloads
ROUNDS, REPEATS = 7, 2_000
REPLACED, APPENDED = "replaced", "appended"
PUBLIC: Final = "public records"
Say = Callable[[str], None]
Place = tuple[str | int, ...]
TAGGER: Final = Tagger(b"bench", size=1_000_000)


class Detection(NamedTuple):
    """How many attacks of a list are seen in the payloads of a benign set; `free` of them are in texts that people
    write."""

    benign: str
    attacks: str
    way: str
    seen: int
    count: int
    free_seen: int
    free: int
    false_alarms: int
    tested: int

    @property
    def false_rate(self) -> float:
        return self.false_alarms / self.tested

    @property
    def f1(self) -> float:
        """Return F1 at equal numbers of attacks and usual payloads."""
        recall = self.seen / self.count
        return 2 * recall / (1 + recall + self.false_rate)


def run(say: Say, payloads: int = PAYLOADS) -> Section:
    lists = attack_lists()
    sets = {"simulated": simulated(payloads), PUBLIC: public_records()}
    found: list[Detection] = []
    structures: list[Structures] = []
    for benign, endpoints in sets.items():
        if endpoints:
            say(f"shape: {benign}")
            found += detections(benign, endpoints, lists)
            structures.append(structure_alarms(benign, endpoints))
    say("shape: cost")
    return section(found, structures, costs())


def detections(benign: str, endpoints: dict[str, list[Body]], lists: dict[str, list[str]]) -> list[Detection]:
    """Learn from benign payloads, and test the others and the attacks of each list."""
    counts, held, tested = PayloadCounts(), [], []
    for endpoint, bodies in endpoints.items():
        half, quarter = len(bodies) // 2, len(bodies) * 3 // 4
        for number, body in enumerate(bodies[:half]):
            counts.add(number % PRINCIPALS, *marked(endpoint, body))
        held += [marked(endpoint, body) for body in bodies[half:quarter]]
        tested += [(endpoint, body) for body in bodies[quarter:]]
    profile = learn_profile(counts)
    profile.calibrate(held)
    alarms = sum(is_odd(profile, endpoint, body) for endpoint, body in tested)
    return [
        detection(profile, benign, name, way, payloads, tested)._replace(false_alarms=alarms, tested=len(tested))
        for name, payloads in lists.items()
        for way in (REPLACED, APPENDED)
    ]


def detection(
    profile: PayloadProfile, benign: str, name: str, way: str, payloads: list[str], tested: list[tuple[str, Body]]
) -> Detection:
    random = Random(f"{benign} {name} {way}")
    by_endpoint: dict[str, list[Body]] = {}
    for endpoint, body in tested:
        by_endpoint.setdefault(endpoint, []).append(body)
    seen = free_seen = free = 0
    for payload in payloads:
        endpoint = random.choice(list(by_endpoint))
        body = random.choice(by_endpoint[endpoint])
        places = [place for place, value in leaves(body) if way == REPLACED or isinstance(value, str)]
        place = random.choice(places or [place for place, _ in leaves(body)])
        hit = is_odd(profile, endpoint, attacked(body, place, payload, way))
        seen += hit
        if place[-1] in FREE_TEXT:
            free, free_seen = free + 1, free_seen + hit
    return Detection(benign, name, way, seen, len(payloads), free_seen, free, 0, 0)


def marked(endpoint: str, body: Body) -> Payload:
    return TAGGER.tag(endpoint), payload_marks(TAGGER.tag, endpoint, {"body": body})


def is_odd(profile: PayloadProfile, endpoint: str, body: Body) -> bool:
    """Return whether at most one usual payload in a hundred is as unusual."""
    return profile.rank(*marked(endpoint, body)) <= DECLARED * SCALE


def leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, object]]:
    """Yield the places and values of the scalars in a body."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from leaves(member, (*place, name))
    elif isinstance(value, tuple):
        for number, element in enumerate(value):
            yield from leaves(element, (*place, number))
    else:
        yield place, value


def attacked(value: Any, place: Place, payload: str, way: str) -> Any:
    """Return a copy of a body with a payload at a place."""
    if not place:
        return payload if way == REPLACED else f"{value}{payload}"
    first, rest = place[0], place[1:]
    if isinstance(value, dict):
        return {**value, first: attacked(value[first], rest, payload, way)}
    return tuple(attacked(one, rest, payload, way) if at == first else one for at, one in enumerate(value))


# ── Structures ────────────────────────────────────────────────────────────────────────────────


class Structures(NamedTuple):
    """How many usual payloads have a new structure, as decisions compare structures, and how many of those with a new
    field, or with a list or an object in place of a value, do."""

    benign: str
    alarms: int
    tested: int
    seen: int
    attacks: int


def structure_alarms(benign: str, endpoints: dict[str, list[Body]]) -> Structures:
    """Let callers learn from half of the payloads, and their class from them; then test the others, of which the
    callers learn, too."""
    random, rows = Random(benign), [BehaviorRow(0) for _ in range(PRINCIPALS)]
    half = {endpoint: len(bodies) // 2 for endpoint, bodies in endpoints.items()}
    for endpoint, bodies in endpoints.items():
        for number, body in enumerate(bodies[: half[endpoint]]):
            learn_shape(rows[number % PRINCIPALS], shape_of(endpoint, body))
    shapes, free_form = class_shapes([set(row.shapes) for row in rows])
    model = ClassModel(shapes=shapes, free_form=free_form)
    alarms = tested = seen = attacks = 0
    for endpoint, bodies in endpoints.items():
        for number, body in enumerate(bodies[half[endpoint] :]):
            row, shape = rows[number % PRINCIPALS], shape_of(endpoint, body)
            odd = random.choice(({**body, "is_admin": True}, {**body, random.choice(list(body)): {"$ne": ("",)}}))
            seen += is_new_shape(row, model, shape_of(endpoint, odd))
            alarms += is_new_shape(row, model, shape)
            learn_shape(row, shape)
            tested, attacks = tested + 1, attacks + 1
    return Structures(benign, alarms, tested, seen, attacks)


def shape_of(endpoint: str, body: Body) -> int:
    return structure_tag(TAGGER.tag, endpoint, {"body": body})


# ── Cost ──────────────────────────────────────────────────────────────────────────────────────


def costs() -> dict[str, float]:
    """Return the microseconds in which the structure of a payload is computed."""
    small = {"amount": 3, "to": "a", "memo": "hi"}
    nested = {**small, "lines": ({"sku": "a", "n": 1}, {"sku": "b", "n": 2}), "ship_to": {"street": "a", "zip": "b"}}
    flood = {f"field {number}": {"a": 1} for number in range(10_000)}
    deep: Any = 1
    for _ in range(31):
        deep = {"a": deep}
    bodies = {"three fields": small, "nested, 14 fields": nested, "10,000 fields": flood, "31 levels": {"a": deep}}
    return {name: microseconds({"body": body}) for name, body in bodies.items()}


def microseconds(facts: dict[str, object]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = process_time()
        for _ in range(REPEATS):
            structure_tag(TAGGER.tag, "POST /orders", facts)
        times.append((process_time() - began) / REPEATS * 1e6)
    return min(times)


# ── The section ───────────────────────────────────────────────────────────────────────────────


def section(found: list[Detection], structures: list[Structures], spent: dict[str, float]) -> Section:
    public = [one for one in found if one.benign == PUBLIC and one.attacks != "own" and one.way == REPLACED]
    rows = [
        *((f"{one.attacks} ({one.count:,}) {one.way} in {one.benign}", detection_words(one)) for one in found),
        *((f"new structures in {one.benign}", structure_words(one)) for one in structures),
        *((f"the structure of a payload, {name}", f"{format_number(cost)} µs") for name, cost in spent.items()),
    ]
    return Section(
        name="shape",
        title="Shapes of payloads, learned from benign payloads only",
        columns=("what", "measured"),
        rows=tuple(rows),
        data=(
            *({**one._asdict(), "f1": round(one.f1, 4)} for one in found),
            *({"structures": one._asdict()} for one in structures),
            {"cost": spent},
        ),
        targets=(
            Target("F1, public lists in public records", 99, pooled_f1(public), "%", at_least=True),
            Target("false alarms, the worst benign set", 1, round(100 * max(one.false_rate for one in found), 3), "%"),
            Target(
                "usual payloads with a new structure, the worst benign set", 1,
                round(max(100 * one.alarms / one.tested for one in structures), 3), "%",
            ),
            Target(
                "new fields and kinds that are a new structure", 99,
                round(min(100 * one.seen / one.attacks for one in structures), 2), "%", at_least=True,
            ),
            Target("the structure of a small payload", 4, round(spent["three fields"], 2), "µs"),
        ),
        notes=(
            "Public lists are fray, wfuzz and the tests of the Core Rule Set (`bench/shape_traffic.py`); some of their",
            "payloads are single words, such as `select`, which have the shape of any word.",
            "F1 is at equal numbers of attacks and usual payloads. Free texts are the fields that people write.",
        ),
    )  # fmt: skip


def pooled_f1(found: list[Detection]) -> float | None:
    """Return F1 of all attacks together in percent; None if no public list is installed."""
    if not found:
        return None
    recall = sum(one.seen for one in found) / sum(one.count for one in found)
    return round(200 * recall / (1 + recall + found[0].false_rate), 2)


def structure_words(one: Structures) -> str:
    return f"{one.alarms / one.tested:.2%} of usual payloads, {one.seen / one.attacks:.1%} with a new field or kind"


def detection_words(one: Detection) -> str:
    free = f", in free texts {one.free_seen / one.free:.1%}" if one.free else ""
    return f"{one.seen / one.count:.1%} seen{free}; false alarms {one.false_rate:.2%}; F1 {one.f1:.4f}"
