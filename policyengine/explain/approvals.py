"""What an approval of a request would be bound to, for people who look at the walk of its decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from policyengine import kernel as k
from policyengine.explain.lines import ExplanationLine, Mark, fact_line
from policyengine.runtime.format_values import format_fact_path, format_value
from policyengine.runtime.values import ABSENT, Invalid, MissingValue, Unknown
from policyengine.spec import trace as w
from policyengine.spec.approval_digest import bound_objects, describe_bound, exclusions_of, facts_read, raw_object
from policyengine.spec.facts import Facts, Path
from policyengine.vocabulary import SECRET_HEADERS

MAX_MEMBERS = 20


def approval_line(seen: w.EffectTrace, confirm: k.Confirm, facts: Facts) -> ExplanationLine:
    """`an approval is bound to body except body.request_id`, and what that is here."""
    unseen = seen.approval.unseen if seen.approval is not None else frozenset()
    words = f"an approval is bound to {', '.join(describe_bound(confirm, facts.request.endpoint))}"
    note = "what is not known cannot be approved" if unseen else None
    return ExplanationLine(
        Mark.UNKNOWN if unseen else Mark.YES, words, note, parts=tuple(bound_object_lines(confirm, facts))
    )


def bound_object_lines(confirm: k.Confirm, facts: Facts) -> Iterator[ExplanationLine]:
    """Each member that came with the request, and what of it may change; then what else the rule reads."""
    told: set[Path] = set()
    for bound_object in bound_objects(confirm, facts.request.endpoint):
        told.add(bound_object.path)
        yield from member_lines(raw_object(bound_object, facts), bound_object.path, exclusions_of(bound_object))
    for key, read in sorted(facts_read(confirm, facts).items()):
        if not any(key[: len(path)] == path for path in told):
            yield fact_line(format_fact_path(key), read.value)


def member_lines(raw: object, path: Path, left: Mapping[str, object]) -> Iterator[ExplanationLine]:
    if raw is ABSENT:
        return
    if not isinstance(raw, Mapping):
        yield raw_line(path, raw)
        return
    for name in islice(sorted(raw), MAX_MEMBERS):
        if left.get(name) == {}:
            yield ExplanationLine(Mark.SKIPPED, format_fact_path((*path, name)), "may change after it was approved")
        else:
            yield raw_line((*path, name), raw[name])
    if len(raw) > MAX_MEMBERS:
        yield ExplanationLine(Mark.YES, f"{len(raw) - MAX_MEMBERS:,} more members of {format_fact_path(path)}")


def raw_line(path: Path, raw: object) -> ExplanationLine:
    name = format_fact_path(path)
    match raw:
        case Invalid(why):
            return fact_line(name, Unknown.of(name, why))
        case MissingValue():
            return fact_line(name, Unknown.of(name, raw.value))
        case None:
            return ExplanationLine(Mark.YES, f"{name} = null")
        case _ if path[-1] in SECRET_HEADERS:
            return ExplanationLine(Mark.YES, f"{name} = (secret)")
        case _:
            return ExplanationLine(Mark.YES, f"{name} = {format_value(raw)}")
