"""What an approval of a request would be bound to, for people who look at the walk of its decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from policyengine import kernel as k
from policyengine.explain.lines import Line, Mark, fact_line
from policyengine.runtime.format_values import fact_name, shown
from policyengine.runtime.values import ABSENT, Invalid, Missing, Unknown
from policyengine.spec import trace as w
from policyengine.spec.approval_digest import bound_words, facts_read, left_out, objects_of, raw_of
from policyengine.spec.facts import Facts, Path
from policyengine.vocabulary import SECRET_HEADERS

MOST_MEMBERS = 20


def bound_line(seen: w.EffectSeen, confirm: k.Confirm, facts: Facts) -> Line:
    """`an approval is bound to body except body.request_id`, and what that is here."""
    unseen = seen.approval.unseen if seen.approval is not None else frozenset()
    words = f"an approval is bound to {', '.join(bound_words(confirm, facts.request.endpoint))}"
    note = "what is not known cannot be approved" if unseen else None
    return Line(Mark.UNKNOWN if unseen else Mark.YES, words, note, parts=tuple(bound_parts(confirm, facts)))


def bound_parts(confirm: k.Confirm, facts: Facts) -> Iterator[Line]:
    """Each member that came with the request, and what of it may change; then what else the rule reads."""
    told: set[Path] = set()
    for one in objects_of(confirm, facts.request.endpoint):
        told.add(one.path)
        yield from member_lines(raw_of(one, facts), one.path, left_out(one))
    for key, read in sorted(facts_read(confirm, facts).items()):
        if not any(key[: len(path)] == path for path in told):
            yield fact_line(fact_name(key), read.value)


def member_lines(raw: object, path: Path, left: Mapping[str, object]) -> Iterator[Line]:
    if raw is ABSENT:
        return
    if not isinstance(raw, Mapping):
        yield raw_line(path, raw)
        return
    for name in islice(sorted(raw), MOST_MEMBERS):
        if left.get(name) == {}:
            yield Line(Mark.SKIPPED, fact_name((*path, name)), "may change after it was approved")
        else:
            yield raw_line((*path, name), raw[name])
    if len(raw) > MOST_MEMBERS:
        yield Line(Mark.YES, f"{len(raw) - MOST_MEMBERS:,} more members of {fact_name(path)}")


def raw_line(path: Path, raw: object) -> Line:
    name = fact_name(path)
    match raw:
        case Invalid(why):
            return fact_line(name, Unknown.of(name, why))
        case Missing():
            return fact_line(name, Unknown.of(name, raw.value))
        case None:
            return Line(Mark.YES, f"{name} = null")
        case _ if path[-1] in SECRET_HEADERS:
            return Line(Mark.YES, f"{name} = (secret)")
        case _:
            return Line(Mark.YES, f"{name} = {shown(raw)}")
