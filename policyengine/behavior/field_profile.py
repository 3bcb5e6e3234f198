"""Learns which marks the fields of a class's payloads have, and says how unusual a payload is.

Counts are whole numbers that merge: counting two parts of the events and merging gives the counts of all events. Each
table keeps the entries with the smallest tags, which makes a bounded table independent of the order of events. The
tables of a principal are its own, so that a flood of fields does not displace the fields of others.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias, TypeVar

from policyengine.behavior.field_marks import Marks
from policyengine.behavior.known_shapes import LEAST_TEACHERS
from policyengine.behavior.learn import MAX_WEIGHT, WEIGHT_UNIT

MAX_PRINCIPALS: Final = 4_096  # of a class
MAX_ENDPOINTS: Final = 256  # of a principal
MAX_FIELDS: Final = 64  # of an endpoint
MAX_MARKS: Final = 96  # of a field
MAX_SCORES: Final = 4_096  # highest scores of an endpoint that are kept for ranks
LEAST_SCORES: Final = 199  # held-out payloads of an endpoint that has ranks of its own; below, the class has them
SCALE: Final = 1_000_000  # ranks are in millionths
LOG_BITS: Final = 10  # scores are in 1/1024 bit

Entry = TypeVar("Entry")
Payload: TypeAlias = tuple[int, Marks]  # the tag of an endpoint, and the marks of a payload


class FieldCounts:
    """The payloads that have a field, and how many of them have each mark."""

    __slots__ = ("marks", "payloads")

    def __init__(self) -> None:
        self.payloads = 0
        self.marks: dict[int, int] = {}

    def add(self, marks: Mapping[int, int], payloads: int) -> None:
        """Add the counts of some payloads."""
        self.payloads += payloads
        own = self.marks
        for mark, count in marks.items():
            own[mark] = own.get(mark, 0) + count
        keep_smallest(own, MAX_MARKS)


class EndpointCounts:
    """The payloads of one principal at an endpoint, and its fields by their tags."""

    __slots__ = ("fields", "payloads")

    def __init__(self) -> None:
        self.payloads = 0
        self.fields: dict[int, FieldCounts] = {}

    def field(self, tag: int) -> FieldCounts:
        found = self.fields.get(tag)
        if found is None:
            found = self.fields[tag] = FieldCounts()
        return found


PrincipalCounts: TypeAlias = dict[int, EndpointCounts]


class PayloadCounts:
    """The counts of a class: for each principal (by the tag of its name), the counts at each endpoint (by the tag of
    the endpoint)."""

    __slots__ = ("principals",)

    def __init__(self) -> None:
        self.principals: dict[int, PrincipalCounts] = {}

    def add(self, principal: int, endpoint: int, marks: Marks) -> None:
        """Count a payload of a principal."""
        counts = self.endpoint(principal, endpoint)
        counts.payloads += 1
        for field, found in marks.items():
            counts.field(field).add(dict.fromkeys(found, 1), 1)
        self.limit(principal, counts)

    def endpoint(self, principal: int, tag: int) -> EndpointCounts:
        endpoints = self.principals.get(principal)
        if endpoints is None:
            endpoints = self.principals[principal] = {}
        found = endpoints.get(tag)
        if found is None:
            found = endpoints[tag] = EndpointCounts()
        return found

    def limit(self, principal: int, counts: EndpointCounts) -> None:
        """Keep the tables within their limits, after a change of one principal at one endpoint."""
        keep_smallest(counts.fields, MAX_FIELDS)
        keep_smallest(self.principals[principal], MAX_ENDPOINTS)
        keep_smallest(self.principals, MAX_PRINCIPALS)

    def to_table(self) -> list[tuple[int, int, int, int, int, int, int]]:
        """Return all counts in order, as rows: principal, endpoint, its payloads, field, its payloads, mark, count."""
        return sorted(
            (principal, endpoint, at.payloads, field, of.payloads, mark, count)
            for principal, endpoints in self.principals.items()
            for endpoint, at in endpoints.items()
            for field, of in at.fields.items()
            for mark, count in of.marks.items()
        )


def keep_smallest(table: dict[int, Entry], most: int) -> None:
    """Remove the entries with the highest tags until at most `most` are left."""
    while len(table) > most:
        del table[max(table)]


def merge_counts(one: PayloadCounts, other: PayloadCounts) -> PayloadCounts:
    """Return the counts of two parts of the events of a class."""
    merged = PayloadCounts()
    for part in (one, other):
        for principal, endpoints in part.principals.items():
            for endpoint, at in endpoints.items():
                counts = merged.endpoint(principal, endpoint)
                counts.payloads += at.payloads
                for field, of in at.fields.items():
                    counts.field(field).add(of.marks, of.payloads)
                merged.limit(principal, counts)
    return merged


# ── What is learned ───────────────────────────────────────────────────────────────────────────


class FieldProfile:
    """The surprise of each usual mark of a field, and that of all others (`unusual`). `usual` is the surprise that 99 %
    of the held-out payloads do not exceed; None if no held-out payload has the field."""

    __slots__ = ("marks", "unusual", "usual")

    def __init__(self, marks: Mapping[int, int], unusual: int) -> None:
        self.marks, self.unusual = marks, unusual
        self.usual: int | None = None

    def surprise(self, marks: Iterable[int]) -> int:
        return sum(self.marks.get(mark, self.unusual) for mark in marks)


class EndpointProfile:
    """The usual fields of an endpoint, and the surprise of any other field (`unusual`)."""

    __slots__ = ("fields", "unusual")

    def __init__(self, fields: Mapping[int, FieldProfile], unusual: int) -> None:
        self.fields, self.unusual = fields, unusual

    def calibrate(self, payloads: Iterable[Marks]) -> None:
        """Set what is usual for each field."""
        found: dict[int, list[int]] = {}
        for payload in payloads:
            for field, marks in payload.items():
                if field in self.fields:
                    found.setdefault(field, []).append(self.fields[field].surprise(marks))
        for field, surprises in found.items():
            self.fields[field].usual = sorted(surprises)[len(surprises) * 99 // 100]

    def score(self, payload: Marks) -> int:
        """Return by how much the most unusual field of a payload exceeds what is usual for the field."""
        return self.worst(payload)[0]

    def worst(self, payload: Marks) -> tuple[int, int]:
        """Return the score of a payload, and the tag of its most unusual field (0 if the score is 0)."""
        best = field_of_best = 0
        for field, marks in payload.items():
            known, score = self.fields.get(field), 0
            if known is None:
                score = self.unusual
            elif known.usual is not None:
                score = known.surprise(marks) - known.usual
            if score > best:
                best, field_of_best = score, field
        return best, field_of_best


class ScoreRanks:
    """The scores of held-out payloads. `add` counts a score; only the highest ones are kept."""

    __slots__ = ("count", "scores")

    def __init__(self) -> None:
        self.count = 0
        self.scores: list[int] = []  # ascending

    def add(self, score: int) -> None:
        self.count += 1
        self.scores.insert(bisect_left(self.scores, score), score)
        if len(self.scores) > MAX_SCORES:
            del self.scores[0]

    def rank(self, score: int) -> int:
        """Return the share of usual payloads with at least this score, in millionths. The payload itself counts as one
        of the usual payloads."""
        return (1 + len(self.scores) - bisect_left(self.scores, score)) * SCALE // (self.count + 1)


class PayloadProfile:
    """The usual fields of the payloads of a class, by the tag of the endpoint."""

    def __init__(self, endpoints: Mapping[int, EndpointProfile]) -> None:
        self.endpoints = endpoints
        self._ranks = {endpoint: ScoreRanks() for endpoint in endpoints}
        self._all = ScoreRanks()

    def calibrate(self, payloads: Iterable[Payload]) -> None:
        """Rank the scores of payloads from which the profile was not learned. Call this once."""
        found: dict[int, list[Marks]] = {endpoint: [] for endpoint in self.endpoints}
        for endpoint, payload in payloads:
            if endpoint in found:
                found[endpoint].append(payload)
        for endpoint, held in found.items():
            profile = self.endpoints[endpoint]
            profile.calibrate(held)
            for payload in held:
                score = profile.score(payload)
                self._ranks[endpoint].add(score)
                self._all.add(score)

    def rank(self, endpoint: int, marks: Marks) -> int:
        """Return the share of usual payloads of the endpoint that are at least as unusual as this payload, in
        millionths. Payloads at unknown endpoints are usual."""
        profile = self.endpoints.get(endpoint)
        if profile is None:
            return SCALE
        own = self._ranks[endpoint]
        ranks = own if own.count >= LEAST_SCORES else self._all
        return ranks.rank(profile.score(marks)) if ranks.count >= LEAST_SCORES else SCALE


def learn_profile(counts: PayloadCounts) -> PayloadProfile:
    """Return the profile of a class. Fields and marks count if at least two principals have them. The weight of each
    principal is limited (MAX_WEIGHT)."""
    endpoints = sorted({endpoint for own in counts.principals.values() for endpoint in own})
    learned: dict[int, EndpointProfile] = {}
    for endpoint in endpoints:
        parts = [own[endpoint] for own in counts.principals.values() if endpoint in own]
        if len(parts) >= LEAST_TEACHERS:
            learned[endpoint] = learn_endpoint_fields(parts)
    return PayloadProfile(learned)


def learn_endpoint_fields(parts: list[EndpointCounts]) -> EndpointProfile:
    """Return the profile of an endpoint from the counts of each principal."""
    weights = payload_weights([part.payloads for part in parts])
    total = sum(weight * part.payloads for weight, part in zip(weights, parts, strict=True))
    users = Counter(field for part in parts for field in part.fields)
    fields = {
        field: learn_field(
            [(weight, part.fields[field]) for weight, part in zip(weights, parts, strict=True) if field in part.fields]
        )
        for field, count in users.items()
        if count >= LEAST_TEACHERS
    }
    return EndpointProfile(fields, surprise(0, total))


def learn_field(parts: list[tuple[int, FieldCounts]]) -> FieldProfile:
    total = sum(weight * part.payloads for weight, part in parts)
    users: Counter[int] = Counter()
    found: Counter[int] = Counter()
    for weight, part in parts:
        users.update(part.marks.keys())
        for mark, count in part.marks.items():
            found[mark] += weight * count
    marks = {mark: surprise(found[mark], total) for mark, count in users.items() if count >= LEAST_TEACHERS}
    return FieldProfile(marks, surprise(0, total))


def payload_weights(counts: list[int]) -> list[int]:
    """Return the weight of each payload of the principals that have these numbers of payloads."""
    most = max(-(-sum(counts) // min(MAX_WEIGHT, len(counts))), 1)
    return [min(count, most) * WEIGHT_UNIT // count for count in counts]


def surprise(weight: int, total: int) -> int:
    """Return the negative logarithm of a probability, in 1/1024 bit. Two payloads are added to the counts: one with the
    field or mark, and one without."""
    return log2(total + 2 * WEIGHT_UNIT) - log2(weight + WEIGHT_UNIT)


def log2(number: int) -> int:
    """Return the logarithm of a positive whole number to the base 2, in 1/1024, rounded down. It is the same on all
    machines."""
    whole = number.bit_length() - 1
    part = (number << 64) >> whole  # between 1 and 2, with 64 binary places
    result = whole
    for _ in range(LOG_BITS):
        part = part * part >> 64
        result <<= 1
        if part >> 65:
            part >>= 1
            result |= 1
    return result
