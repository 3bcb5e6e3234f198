"""Which structures of payloads a caller and its class are known to send."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from policyengine.behavior.model import ClassModel
from policyengine.behavior.row import HOURS_OF_DAY, MAX_SHAPES, BehaviorRow
from policyengine.behavior.shape import endpoint_part

MAX_OWN_SHAPES: Final = 12  # structures of one endpoint, with which its payloads are free-form for the caller
FREE_FORM: Final = 16  # structures of an endpoint in a class, with which its payloads are free-form
MAX_TAUGHT: Final = FREE_FORM // 2  # maximum of these that only one principal sends
LEAST_TEACHERS: Final = 2  # minimum principals that use an endpoint, or send a structure, of a class


def is_new_shape(row: BehaviorRow, model: ClassModel, shape: int) -> bool:
    """Return whether neither the caller nor its class sent a payload of this structure to its endpoint, although other
    structures of the endpoint are known. Payloads are not judged if they are free-form, or if the row has forgotten
    structures."""
    if shape in row.shapes or shape in model.shapes or len(row.shapes) >= MAX_SHAPES:
        return False
    endpoint, count = endpoint_part(shape), 0
    if endpoint in model.free_form:
        return False
    for known in row.shapes:
        if endpoint_part(known) == endpoint:
            count += 1
    return 0 < count < MAX_OWN_SHAPES or (count == 0 and endpoint in model.shapes)


def learn_shape(row: BehaviorRow, shape: int) -> None:
    """Remember that the caller sends payloads of this structure; if there are too many, drop the least recently used
    structure. Beyond MAX_OWN_SHAPES, the structures of one endpoint do not displace those of others."""
    known = row.shapes
    if shape not in known:
        same = [tag for tag in known if endpoint_part(tag) == endpoint_part(shape)]
        if len(same) >= MAX_OWN_SHAPES:
            del known[oldest(known, same)]
        elif len(known) >= MAX_SHAPES:
            del known[oldest(known, list(known))]
    known[shape] = row.hour // HOURS_OF_DAY


def oldest(days: dict[int, int], tags: list[int]) -> int:
    """Return the least recently used tag."""
    return min(tags, key=lambda tag: (days[tag], tag))


def shared_tags(parts: Sequence[set[int]]) -> frozenset[int]:
    """Return the tags that at least two principals have."""
    users = Counter(tag for part in parts for tag in part)
    return frozenset(tag for tag, count in users.items() if count >= LEAST_TEACHERS)


def class_shapes(parts: Sequence[set[int]]) -> tuple[frozenset[int], frozenset[int]]:
    """Return the structures that at least two principals send, with the tag parts of their endpoints, and the tag parts
    of the endpoints whose payloads are free-form. An endpoint is free-form if the principals together send at least
    FREE_FORM structures. At most MAX_TAUGHT structures that only one principal sends count for this principal, so that
    no principal makes an endpoint free-form alone."""
    shared = shared_tags(parts)
    counts = Counter(map(endpoint_part, shared))
    for part in parts:
        own = Counter(endpoint_part(tag) for tag in part if tag not in shared)
        for endpoint, count in own.items():
            counts[endpoint] += min(count, MAX_TAUGHT)
    free_form = frozenset(endpoint for endpoint, count in counts.items() if count >= FREE_FORM)
    judged = {tag for tag in shared if endpoint_part(tag) not in free_form}
    return frozenset(judged | set(map(endpoint_part, judged))), free_form
