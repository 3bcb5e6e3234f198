"""Renders a diff as text for a terminal, or as Markdown for a pull request comment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from policyengine.analysis.diff.answer_order import Direction
from policyengine.analysis.diff.model import (
    Diff,
    Difference,
    ItemChange,
    LimitChange,
    LogDiff,
    RuleExcerpt,
    TrustChange,
    UnprovedRegion,
    Witness,
    WitnessVerdict,
    rule_with_place,
)
from policyengine.control_characters import one_line, printable_json

MAP_HEADING = f"{Direction.CHANGED}: the translation of AuthZEN questions"
PROFILE_HEADING = f"{Direction.CHANGED}: how behavior is learned"
MAX_REGIONS_SHOWN = 6  # maximum listed regions of one difference
MAX_FLIPS_SHOWN = 5
MAX_UNPROVED_SHOWN = 5
MARKDOWN_CHARACTERS = frozenset("\\`*_[]|#~")  # special characters of Markdown
MARKS = {Direction.WIDENING: "🔓", Direction.CHANGED: "↔️", Direction.NARROWING: "🔒", Direction.REASONS: "✏️"}


def render_text(diff: Diff) -> str:
    """Return each difference with its regions, rules and an example request, and the summary at the end."""
    blocks = [
        *map(difference_text, diff.differences),
        *map(limit_text, diff.limits),
        *map(trust_text, diff.trust),
        *(item_text(heading, one) for heading, one in changed_items(diff)),
        *log_blocks(diff.log),
    ]
    blocks += unproved_blocks(diff.doubts, beyond=bool(blocks))
    return "\n\n".join([*blocks, summary(diff)]) + "\n"


def difference_text(one: Difference) -> str:
    regions = truncate_lines((f"  {one_line(each.region.words)}" for each in one.witnesses), MAX_REGIONS_SHOWN, "  ")
    rules = [
        *(f"  - {rule_text(rule)}" for rule in one.removed),
        *(f"  + {rule_text(rule)}" for rule in one.added),
        *(f"  old: {line}" for line in verdict_lines(one.old)),
        *(f"  new: {line}" for line in verdict_lines(one.new)),
    ]
    head = one_line(f"{one.direction}: {one.old.words} -> {one.new.words}")
    return "\n".join([head, *regions, *rules, *request_lines(one)])


def limit_text(one: LimitChange) -> str:
    return "\n".join([limit_head(one), *(f"  {line}" for line in signed_rules(one))])


def signed_rules(one: LimitChange) -> list[str]:
    return [f"{sign} {rule_text(rule)}" for sign, rule in (("-", one.old), ("+", one.new)) if rule is not None]


def trust_text(one: TrustChange) -> str:
    lines = [*(f"  - {rule_text(rule)}" for rule in one.removed), *(f"  + {rule_text(rule)}" for rule in one.added)]
    return "\n".join([trust_head(one), *lines])


def trust_head(one: TrustChange) -> str:
    return one_line(f"{one.direction}: {one.name} is {one.verb}")


def changed_items(diff: Diff) -> Iterator[tuple[str, ItemChange]]:
    """Yield the changed maps and profiles, each with its heading."""
    yield from ((MAP_HEADING, diff.maps),) if diff.maps else ()
    yield from ((PROFILE_HEADING, diff.profiles),) if diff.profiles else ()


def item_text(heading: str, one: ItemChange) -> str:
    return "\n".join([heading, *(f"  {line}" for line in item_lines(one))])


def item_lines(one: ItemChange) -> list[str]:
    return [*(f"- {rule_text(rule)}" for rule in one.removed), *(f"+ {rule_text(rule)}" for rule in one.added)]


def limit_head(one: LimitChange) -> str:
    rule = one.new or one.old
    assert rule is not None
    return one_line(f"{one.direction}: {rule.name} is {one.verb}")


def request_lines(one: Difference) -> Iterator[str]:
    yield f"  for example{behavior_text(one.witnesses[0])}:"
    yield f"    {example_json(one.witnesses[0])}"


def behavior_text(witness: Witness) -> str:
    """Return the learned facts of the caller as a test gives them."""
    found: dict[str, list[str]] = {}
    for name, value in witness.behavior.items():
        root, _, member = name.rpartition(".")
        text = value if value == "unknown" else json.dumps(value)
        found.setdefault(root or "behavior", []).append(f"{member}: {text}")
    return "".join(f", given {root} {{ {', '.join(given)} }}" for root, given in found.items())


def verdict_lines(verdict: WitnessVerdict) -> Iterator[str]:
    by = f" by {', '.join(map(rule_with_place, verdict.rules))}" if verdict.rules else ""
    yield one_line(f"{verdict.words}{by}{throttled_text(verdict)}")


def throttled_text(verdict: WitnessVerdict) -> str:
    """Return, as text, the limits whose whole capacity the request exceeds. A diff has no counts of earlier
    requests.
    """
    names = ", ".join(f'"{name}"' for name in verdict.throttled)
    return f", which {names} would throttle: it exceeds their whole capacity" if names else ""


def rule_text(rule: RuleExcerpt) -> str:
    return one_line(f"{rule.at}: {rule.name}: {rule.text}")


def log_blocks(log: LogDiff | None) -> Iterator[str]:
    if log is None:
        return
    lines = [f"{count_text(len(log.flips), 'recorded decision')} of {log.records:,} in `{log.file}` {flip_verb(log)}"]
    for (old, new, direction, recorded), ids in flips_by_kind(log):
        before = f"recorded {old}" if recorded else old
        lines.append(
            f"  {direction}: {before} -> {new}: {len(ids):,} ({', '.join(truncate_lines(ids, MAX_FLIPS_SHOWN, ''))})"
        )
    if log.unusable:
        lines.append(f"  {count_text(log.unusable, 'record')} cannot be replayed: the log lacks needed data")
    yield "\n".join(map(one_line, lines))


def flip_verb(log: LogDiff) -> str:
    return "flips" if len(log.flips) == 1 else "flip"


FlipKind: TypeAlias = tuple[str, str, Direction, bool]


def flips_by_kind(log: LogDiff) -> list[tuple[FlipKind, list[str]]]:
    found: dict[FlipKind, list[str]] = {}
    for flip in log.flips:
        found.setdefault((flip.old, flip.new, flip.direction, flip.recorded), []).append(flip.id)
    return sorted(found.items(), key=lambda item: ([*Direction].index(item[0][2]), -len(item[1])))


def unproved_blocks(doubts: Sequence[UnprovedRegion], *, beyond: bool) -> Iterator[str]:
    if doubts:
        lines = [f"not proved{', in addition to the above' if beyond else ''}:"]
        yield "\n".join(
            [*lines, *truncate_lines((f"  {unproved_text(one)}" for one in doubts), MAX_UNPROVED_SHOWN, "  ")]
        )


def unproved_text(one: UnprovedRegion) -> str:
    tried = (
        f"sampled {count_text(one.sampled, 'request')}, no further difference found" if one.sampled else "not sampled"
    )
    return one_line(f"{one.words}; {tried}")


def summary(diff: Diff) -> str:
    """Return one line: the differences, and how much was proved or only sampled."""
    if not diff.differs and diff.proved:
        return "no difference: proved for all requests"
    counts = [count_text(n, name) for name, n in difference_counts(diff)]
    sampled = sum(one.sampled for one in diff.doubts)
    doubts = f"{count_text(len(diff.doubts), 'region')} ({count_text(sampled, 'request')} sampled)"
    if not counts:
        return (
            f"not proved: the changed rules may allow more in {doubts}" if diff.suspects else f"not proved in {doubts}"
        )
    rest = "everything else is proved equal" if diff.proved else f"not proved: {doubts}"
    return f"{', '.join(counts)}; {rest}"


def difference_counts(diff: Diff) -> Iterator[tuple[str, int]]:
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
    if diff.profiles:
        yield "changed profile", len({*(one.name for one in (*diff.profiles.removed, *diff.profiles.added))})
    if diff.flips:
        yield "flipped decision", len(diff.flips)


def count_text(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def truncate_lines(lines: Iterable[str], most: int, indent: str) -> list[str]:
    every = list(lines)
    return every if len(every) <= most else [*every[: most - 1], f"{indent}and {len(every) - most + 1:,} more"]


# ── Markdown ──────────────────────────────────────────────────────────────────────────────────


def render_markdown(diff: Diff) -> str:
    """Return Markdown that is short enough for a comment: a table, with the requests in collapsed blocks."""
    blocks = [f"### Policy diff: {summary(diff)}"]
    if diff.differences:
        blocks.append("\n".join(difference_table(diff.differences)))
        blocks += [collapsed_difference(number, one) for number, one in enumerate(diff.differences, 1)]
    blocks += map(limit_block, diff.limits)
    blocks += map(trust_block, diff.trust)
    for heading, one in changed_items(diff):
        head = f"**{MARKS[Direction.CHANGED]} {heading}**"
        blocks.append("\n".join([head, "", *fenced_block("diff", item_lines(one))]).rstrip())
    blocks += ["\n".join(f"> {escape_cell(line)}" for line in block.split("\n")) for block in log_blocks(diff.log)]
    if diff.doubts:
        lines = truncate_lines(
            (f"- {escape_cell(unproved_text(one))}" for one in diff.doubts), MAX_UNPROVED_SHOWN * 4, "- "
        )
        blocks.append(unproved_markdown(lines, hidden=not diff.suspects))
    return "\n\n".join(blocks) + "\n"


def unproved_markdown(lines: Sequence[str], *, hidden: bool) -> str:
    """Return the regions without proof; they are not collapsed if they may grant access."""
    inside = "\n".join(lines)
    return collapsed_block("Not proved", inside) if hidden else f"**Not proved**\n\n{inside}"


def difference_table(differences: Sequence[Difference]) -> Iterator[str]:
    yield "| | | old | new | where |"
    yield "|---:|---|---|---|---|"
    for number, one in enumerate(differences, 1):
        more = len(one.witnesses) - 1
        where = escape_cell(one.witnesses[0].region.words) + (f" *and {more:,} more*" if more else "")
        answers = f"{escape_cell(one.old.words)} | {escape_cell(one.new.words)}"
        yield f"| {number} | {MARKS[one.direction]} {one.direction} | {answers} | {where} |"


def collapsed_difference(number: int, one: Difference) -> str:
    regions = truncate_lines(
        (f"- {escape_cell(each.region.words)}" for each in one.witnesses), MAX_REGIONS_SHOWN * 4, "- "
    )
    rules = [*(f"- {rule_text(rule)}" for rule in one.removed), *(f"+ {rule_text(rule)}" for rule in one.added)]
    old, new = (escape_cell(next(verdict_lines(each))) for each in (one.old, one.new))
    lines = [
        *regions, "", *fenced_block("diff", rules), *fenced_block("json", [example_json(one.witnesses[0])]),
        f"The old policy decides {old}; the new one decides {new}{escape_cell(behavior_text(one.witnesses[0]))}.",
    ]  # fmt: skip
    return collapsed_block(f"{number}: rules and an example request", "\n".join(lines))


def limit_block(one: LimitChange) -> str:
    head = f"**{MARKS[one.direction]} {escape_cell(limit_head(one))}**"
    return "\n".join([head, "", *fenced_block("diff", signed_rules(one))]).rstrip()


def trust_block(one: TrustChange) -> str:
    head = f"**{MARKS[one.direction]} {escape_cell(trust_head(one))}**"
    lines = [*(f"- {rule_text(rule)}" for rule in one.removed), *(f"+ {rule_text(rule)}" for rule in one.added)]
    return "\n".join([head, "", *fenced_block("diff", lines)]).rstrip()


def example_json(witness: Witness) -> str:
    return printable_json(json.dumps(witness.request, ensure_ascii=False))


def fenced_block(language: str, lines: Sequence[str]) -> list[str]:
    """Return a code block with a fence longer than any in its text, so that policy text cannot end it."""
    if not lines:
        return []
    inside = "\n".join(lines)
    fence = "`" * max(3, 1 + max((len(run) for run in inside.split("\n") if set(run.strip()) == {"`"}), default=0))
    return [f"{fence}{language}", inside, fence, ""]


def collapsed_block(title: str, inside: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{inside}\n\n</details>"


def escape_cell(words: str) -> str:
    """Escape text of policies and requests for Markdown."""
    escaped = (
        f"&#{ord(char)};" if char in "<>@&" else f"\\{char}" if char in MARKDOWN_CHARACTERS else char for char in words
    )
    return " ".join("".join(escaped).split())
