"""A diff for people: as text for a terminal, as Markdown for a comment on a pull request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from policyengine.analysis.changes import (
    Diff,
    Difference,
    Direction,
    Doubt,
    LimitChange,
    MapChange,
    Replayed,
    Rule,
    Witness,
)

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
        *([map_text(diff.maps)] if diff.maps else []),
        *log_blocks(diff.log),
        *doubt_blocks(diff.doubts),
    ]
    return "\n\n".join([*blocks, summary(diff)]) + "\n"


def difference_text(one: Difference) -> str:
    regions = shortened((f"  {witness.region.words}" for witness in one.witnesses), MOST_REGIONS, "  ")
    rules = [
        *(f"  - {rule_text(rule)}" for rule in one.removed),
        *(f"  + {rule_text(rule)}" for rule in one.added),
        *(f"  old: {line}" for line in verdict_lines(one.old.words, one.old.rules)),
        *(f"  new: {line}" for line in verdict_lines(one.new.words, one.new.rules)),
    ]
    return "\n".join([f"{one.direction}: {one.old.words} -> {one.new.words}", *regions, *rules, *request_lines(one)])


def limit_text(one: LimitChange) -> str:
    return "\n".join([limit_head(one), *(f"  {line}" for line in signed(one))])


def signed(one: LimitChange) -> list[str]:
    return [f"{sign} {rule_text(rule)}" for sign, rule in (("-", one.old), ("+", one.new)) if rule is not None]


def map_text(one: MapChange) -> str:
    return "\n".join([MAPS, *(f"  {line}" for line in map_lines(one))])


def map_lines(one: MapChange) -> list[str]:
    return [*(f"- {rule_text(rule)}" for rule in one.removed), *(f"+ {rule_text(rule)}" for rule in one.added)]


def limit_head(one: LimitChange) -> str:
    rule = one.new or one.old
    assert rule is not None
    return f"{one.direction}: {rule.name} is {one.verb}"


def request_lines(one: Difference) -> Iterator[str]:
    first = one.witnesses[0]
    yield "  for example:"
    yield f"    {json.dumps(first.request, ensure_ascii=False)}"


def verdict_lines(words: str, rules: Sequence[Rule]) -> Iterator[str]:
    yield f"{words} by {', '.join(place_text(rule) for rule in rules)}" if rules else words


def place_text(rule: Rule) -> str:
    return f"{rule.name} ({rule.at})" if rule.at else rule.name


def rule_text(rule: Rule) -> str:
    return f"{rule.at}: {rule.name}: {rule.text}"


def log_blocks(log: Replayed | None) -> Iterator[str]:
    if log is None:
        return
    lines = [f"{several(len(log.flips), 'recorded decision')} of {log.records:,} in `{log.file}` {verb(log)}"]
    for (old, new, direction), ids in by_kind(log):
        lines.append(f"  {direction}: {old} -> {new}: {len(ids):,} ({', '.join(shortened(ids, MOST_FLIPS, ''))})")
    if log.unusable:
        lines.append(f"  {several(log.unusable, 'record')} cannot be decided again: the log lacks what they rest on")
    yield "\n".join(lines)


def verb(log: Replayed) -> str:
    return "flips" if len(log.flips) == 1 else "flip"


def by_kind(log: Replayed) -> list[tuple[tuple[str, str, Direction], list[str]]]:
    found: dict[tuple[str, str, Direction], list[str]] = {}
    for flip in log.flips:
        found.setdefault((flip.old, flip.new, flip.direction), []).append(flip.id)
    return sorted(found.items(), key=lambda item: ([*Direction].index(item[0][2]), -len(item[1])))


def doubt_blocks(doubts: Sequence[Doubt]) -> Iterator[str]:
    if doubts:
        lines = ["not proved the same, beyond what is told above:"]
        yield "\n".join([*lines, *shortened((f"  {doubt_text(one)}" for one in doubts), MOST_DOUBTS, "  ")])


def doubt_text(one: Doubt) -> str:
    tried = f"sampled {several(one.sampled, 'request')}, no further difference found" if one.sampled else "not sampled"
    return f"{one.endpoint} · {one.caller}: {one.why}; {tried}"


def summary(diff: Diff) -> str:
    """What differs, what was proved and what only sampled, in one line."""
    if not diff.differs and diff.proved:
        return "same: proved for all requests"
    counts = [f"{several(n, name)}" for name, n in counted(diff)] or ["no difference found"]
    sampled = sum(one.sampled for one in diff.doubts)
    rest = (
        "everything else is proved the same"
        if diff.proved
        else f"{several(len(diff.doubts), 'region')} not proved the same ({several(sampled, 'request')} sampled)"
    )
    return f"{', '.join(counts)}; {rest}"


def counted(diff: Diff) -> Iterator[tuple[str, int]]:
    for direction in Direction:
        number = sum(one.direction is direction for one in diff.differences)
        if number:
            yield f"{direction} difference", number
    if diff.limits:
        yield "changed limit", len(diff.limits)
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
    if diff.maps:
        head = f"**{MARKS[Direction.CHANGED]} {MAPS}**"
        blocks.append("\n".join([head, "", *fenced("diff", map_lines(diff.maps))]).rstrip())
    blocks += ["\n".join(f"> {cell(line)}" for line in block.split("\n")) for block in log_blocks(diff.log)]
    if diff.doubts:
        lines = shortened((f"- {cell(doubt_text(one))}" for one in diff.doubts), MOST_DOUBTS * 4, "- ")
        blocks.append(details("Not proved the same", "\n".join(lines)))
    return "\n\n".join(blocks) + "\n"


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
    old, new = (cell(next(verdict_lines(each.words, each.rules))) for each in (one.old, one.new))
    lines = [
        *regions, "", *fenced("diff", rules), *fenced("json", [example(one.witnesses[0])]),
        f"The old policy says {old}; the new one says {new}.",
    ]  # fmt: skip
    return details(f"{number}: rules, and a request that shows it", "\n".join(lines))


def limit_block(one: LimitChange) -> str:
    head = f"**{MARKS[one.direction]} {cell(limit_head(one))}**"
    return "\n".join([head, "", *fenced("diff", signed(one))]).rstrip()


def example(witness: Witness) -> str:
    return json.dumps(witness.request, ensure_ascii=False)


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
