"""A diff for people: as text for a terminal, as Markdown for a comment on a pull request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from policyengine.analysis.diff.answers import Direction
from policyengine.analysis.diff.model import (
    Diff,
    Difference,
    Doubt,
    LimitChange,
    MapChange,
    Replayed,
    Rule,
    TrustChange,
    Verdict,
    Witness,
    place_text,
)
from policyengine.control_characters import one_line, printable_json

MAPS = f"{Direction.CHANGED}: what questions of AuthZEN become"
MOST_REGIONS = 6  # of one difference that are listed
MOST_FLIPS = 5
MOST_DOUBTS = 5
MEANINGFUL = frozenset("\\`*_[]|#~")  # to Markdown
MARKS = {Direction.WIDENING: "🔓", Direction.CHANGED: "↔️", Direction.NARROWING: "🔒", Direction.REASONS: "✏️"}


def text(diff: Diff) -> str:
    """Each difference with its regions, rules and a request that shows it; what was proved comes last."""
    blocks = [
        *map(difference_text, diff.differences),
        *map(limit_text, diff.limits),
        *map(trust_text, diff.trust),
        *([map_text(diff.maps)] if diff.maps else []),
        *log_blocks(diff.log),
    ]
    blocks += doubt_blocks(diff.doubts, beyond=bool(blocks))
    return "\n\n".join([*blocks, summary(diff)]) + "\n"


def difference_text(one: Difference) -> str:
    regions = shortened((f"  {one_line(each.region.words)}" for each in one.witnesses), MOST_REGIONS, "  ")
    rules = [
        *(f"  - {rule_text(rule)}" for rule in one.removed),
        *(f"  + {rule_text(rule)}" for rule in one.added),
        *(f"  old: {line}" for line in verdict_lines(one.old)),
        *(f"  new: {line}" for line in verdict_lines(one.new)),
    ]
    head = one_line(f"{one.direction}: {one.old.words} -> {one.new.words}")
    return "\n".join([head, *regions, *rules, *request_lines(one)])


def limit_text(one: LimitChange) -> str:
    return "\n".join([limit_head(one), *(f"  {line}" for line in signed(one))])


def signed(one: LimitChange) -> list[str]:
    return [f"{sign} {rule_text(rule)}" for sign, rule in (("-", one.old), ("+", one.new)) if rule is not None]


def trust_text(one: TrustChange) -> str:
    lines = [*(f"  - {rule_text(rule)}" for rule in one.removed), *(f"  + {rule_text(rule)}" for rule in one.added)]
    return "\n".join([trust_head(one), *lines])


def trust_head(one: TrustChange) -> str:
    return one_line(f"{one.direction}: {one.name} is {one.verb}")


def map_text(one: MapChange) -> str:
    return "\n".join([MAPS, *(f"  {line}" for line in map_lines(one))])


def map_lines(one: MapChange) -> list[str]:
    return [*(f"- {rule_text(rule)}" for rule in one.removed), *(f"+ {rule_text(rule)}" for rule in one.added)]


def limit_head(one: LimitChange) -> str:
    rule = one.new or one.old
    assert rule is not None
    return one_line(f"{one.direction}: {rule.name} is {one.verb}")


def request_lines(one: Difference) -> Iterator[str]:
    yield "  for example:"
    yield f"    {example(one.witnesses[0])}"


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    by = f" by {', '.join(map(place_text, verdict.rules))}" if verdict.rules else ""
    yield one_line(f"{verdict.words}{by}{throttled_text(verdict)}")


def throttled_text(verdict: Verdict) -> str:
    """What a count, which no diff has, would say to the request."""
    names = ", ".join(f'"{name}"' for name in verdict.throttled)
    return f", which {names} would throttle: it is more than there ever is room for" if names else ""


def rule_text(rule: Rule) -> str:
    return one_line(f"{rule.at}: {rule.name}: {rule.text}")


def log_blocks(log: Replayed | None) -> Iterator[str]:
    if log is None:
        return
    lines = [f"{several(len(log.flips), 'recorded decision')} of {log.records:,} in `{log.file}` {verb(log)}"]
    for (old, new, direction, recorded), ids in by_kind(log):
        before = f"recorded {old}" if recorded else old
        lines.append(f"  {direction}: {before} -> {new}: {len(ids):,} ({', '.join(shortened(ids, MOST_FLIPS, ''))})")
    if log.unusable:
        lines.append(f"  {several(log.unusable, 'record')} cannot be decided again: the log lacks what they rest on")
    yield "\n".join(map(one_line, lines))


def verb(log: Replayed) -> str:
    return "flips" if len(log.flips) == 1 else "flip"


FlipKind: TypeAlias = tuple[str, str, Direction, bool]


def by_kind(log: Replayed) -> list[tuple[FlipKind, list[str]]]:
    found: dict[FlipKind, list[str]] = {}
    for flip in log.flips:
        found.setdefault((flip.old, flip.new, flip.direction, flip.recorded), []).append(flip.id)
    return sorted(found.items(), key=lambda item: ([*Direction].index(item[0][2]), -len(item[1])))


def doubt_blocks(doubts: Sequence[Doubt], *, beyond: bool) -> Iterator[str]:
    if doubts:
        lines = [f"not proved{', beyond what is told above' if beyond else ''}:"]
        yield "\n".join([*lines, *shortened((f"  {doubt_text(one)}" for one in doubts), MOST_DOUBTS, "  ")])


def doubt_text(one: Doubt) -> str:
    tried = f"sampled {several(one.sampled, 'request')}, no further difference found" if one.sampled else "not sampled"
    return one_line(f"{one.words}; {tried}")


def summary(diff: Diff) -> str:
    """What differs, what was proved and what only sampled, in one line."""
    if not diff.differs and diff.proved:
        return "same: proved for all requests"
    counts = [several(n, name) for name, n in counted(diff)]
    sampled = sum(one.sampled for one in diff.doubts)
    doubts = f"{several(len(diff.doubts), 'region')} ({several(sampled, 'request')} sampled)"
    if not counts:
        return (
            f"not proved: what changed may open something in {doubts}" if diff.suspects else f"not proved in {doubts}"
        )
    rest = "everything else is proved the same" if diff.proved else f"not proved: {doubts}"
    return f"{', '.join(counts)}; {rest}"


def counted(diff: Diff) -> Iterator[tuple[str, int]]:
    for direction in Direction:
        number = sum(one.direction is direction for one in diff.differences)
        if number:
            yield f"{direction} difference", number
    if diff.limits:
        yield "changed limit", len(diff.limits)
    if diff.trust:
        yield "changed trust anchor", len(diff.trust)
    if diff.maps:
        yield "changed map", 1
    if diff.flips:
        yield "flipped decision", len(diff.flips)


def several(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def shortened(lines: Iterable[str], most: int, indent: str) -> list[str]:
    every = list(lines)
    return every if len(every) <= most else [*every[: most - 1], f"{indent}and {len(every) - most + 1:,} more"]


# ── Markdown ──────────────────────────────────────────────────────────────────────────────────


def markdown(diff: Diff) -> str:
    """Short enough for a comment: a table, and the requests folded below it."""
    blocks = [f"### Policy diff: {summary(diff)}"]
    if diff.differences:
        blocks.append("\n".join(table(diff.differences)))
        blocks += [folded(number, one) for number, one in enumerate(diff.differences, 1)]
    blocks += map(limit_block, diff.limits)
    blocks += map(trust_block, diff.trust)
    if diff.maps:
        head = f"**{MARKS[Direction.CHANGED]} {MAPS}**"
        blocks.append("\n".join([head, "", *fenced("diff", map_lines(diff.maps))]).rstrip())
    blocks += ["\n".join(f"> {cell(line)}" for line in block.split("\n")) for block in log_blocks(diff.log)]
    if diff.doubts:
        lines = shortened((f"- {cell(doubt_text(one))}" for one in diff.doubts), MOST_DOUBTS * 4, "- ")
        blocks.append(doubts_block(lines, hidden=not diff.suspects))
    return "\n\n".join(blocks) + "\n"


def doubts_block(lines: Sequence[str], *, hidden: bool) -> str:
    """What may open something is not folded away."""
    inside = "\n".join(lines)
    return details("Not proved", inside) if hidden else f"**Not proved**\n\n{inside}"


def table(differences: Sequence[Difference]) -> Iterator[str]:
    yield "| | | old | new | where |"
    yield "|---:|---|---|---|---|"
    for number, one in enumerate(differences, 1):
        more = len(one.witnesses) - 1
        where = cell(one.witnesses[0].region.words) + (f" *and {more:,} more*" if more else "")
        answers = f"{cell(one.old.words)} | {cell(one.new.words)}"
        yield f"| {number} | {MARKS[one.direction]} {one.direction} | {answers} | {where} |"


def folded(number: int, one: Difference) -> str:
    regions = shortened((f"- {cell(each.region.words)}" for each in one.witnesses), MOST_REGIONS * 4, "- ")
    rules = [*(f"- {rule_text(rule)}" for rule in one.removed), *(f"+ {rule_text(rule)}" for rule in one.added)]
    old, new = (cell(next(verdict_lines(each))) for each in (one.old, one.new))
    lines = [
        *regions, "", *fenced("diff", rules), *fenced("json", [example(one.witnesses[0])]),
        f"The old policy says {old}; the new one says {new}.",
    ]  # fmt: skip
    return details(f"{number}: rules, and a request that shows it", "\n".join(lines))


def limit_block(one: LimitChange) -> str:
    head = f"**{MARKS[one.direction]} {cell(limit_head(one))}**"
    return "\n".join([head, "", *fenced("diff", signed(one))]).rstrip()


def trust_block(one: TrustChange) -> str:
    head = f"**{MARKS[one.direction]} {cell(trust_head(one))}**"
    lines = [*(f"- {rule_text(rule)}" for rule in one.removed), *(f"+ {rule_text(rule)}" for rule in one.added)]
    return "\n".join([head, "", *fenced("diff", lines)]).rstrip()


def example(witness: Witness) -> str:
    return printable_json(json.dumps(witness.request, ensure_ascii=False))


def fenced(language: str, lines: Sequence[str]) -> list[str]:
    """A block whose fence is longer than any in it, so that no text of a policy can end it."""
    if not lines:
        return []
    inside = "\n".join(lines)
    fence = "`" * max(3, 1 + max((len(run) for run in inside.split("\n") if set(run.strip()) == {"`"}), default=0))
    return [f"{fence}{language}", inside, fence, ""]


def details(title: str, inside: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{inside}\n\n</details>"


def cell(words: str) -> str:
    """Text of policies and requests, without power over the page."""
    escaped = (f"&#{ord(char)};" if char in "<>@&" else f"\\{char}" if char in MEANINGFUL else char for char in words)
    return " ".join("".join(escaped).split())
