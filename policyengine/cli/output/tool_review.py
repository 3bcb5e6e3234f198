"""Shows the reviews of tools. The texts of a server are data: each line of them has a prefix, and no character of them
has an effect on the terminal."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from policyengine.cli.output.terminal import Screen
from policyengine.control_characters import split_invisible
from policyengine.tool_pins.differences import MemberDifference
from policyengine.tool_pins.instruction_hints import InstructionHint
from policyengine.tool_pins.listed_tools import PinState
from policyengine.tool_pins.review import ToolReview

MAX_SHOWN_LINES = 200  # maximum lines shown for one tool; JSON has all lines
MAX_LINE = 400
CONTEXT_LINES = 2
STATE_STYLES = {
    PinState.CHANGED: "bold red", PinState.SHADOWING: "bold red", PinState.REPEATED: "bold red",
    PinState.UNUSABLE: "bold red", PinState.NEW: "bold yellow", PinState.UNLISTED: "bold yellow",
}  # fmt: skip
STATE_WORDS = {PinState.UNLISTED: "removed"}
HINTS_TITLE = "hints, which may be wrong and are not complete:"


def show_characters(text: str) -> str:
    """Return the text with code points, such as `⟨U+202E⟩`, in place of invisible characters and line ends."""
    return "".join(f"⟨{part}⟩" if is_code else part for part, is_code in split_invisible(text, ""))


def show_name(name: str) -> str:
    """Return a name; each character outside ASCII is followed by its code point, because it may look like a letter."""
    shown = "".join(
        char if char.isascii() else f"{char}⟨U+{ord(char):04X}⟩" if char.isprintable() else char for char in name
    )
    return show_characters(shown)


def state_word(review: ToolReview) -> str:
    return STATE_WORDS.get(review.state, str(review.state))


def print_review(screen: Screen, review: ToolReview, server: str, others: Collection[str]) -> None:
    word = state_word(review)
    screen.line((word, STATE_STYLES.get(review.state, "")), " ", (f"{server}/{show_name(review.name)}", "bold"))
    screen.line(f"  {show_name(review.why)}")
    if review.pin is not None:
        screen.line(
            f"  reviewed {show_characters(review.pin.reviewed)} by {show_characters(review.pin.by) or 'nobody'}"
        )
    if review.digest and review.is_acceptable:
        screen.line(f"  hash {review.digest}")
    lines = list(difference_lines(review.differences()))
    for line in lines[:MAX_SHOWN_LINES]:
        screen.diff([line])
    if len(lines) > MAX_SHOWN_LINES:
        screen.line(f"  … {len(lines) - MAX_SHOWN_LINES:,} more lines: `--format json` has all of them")
    hints = review.hints(others)
    if hints:
        screen.line(("  " + HINTS_TITLE, "yellow"))
    for hint in hints:
        screen.line(f"  * {hint.kind}, in {show_name(hint.path)}: | {show_characters(hint.excerpt)}")
    screen.line()


def difference_lines(differences: Sequence[MemberDifference]) -> Iterator[str]:
    """Yield each difference as its path and the lines of a unified difference."""
    for difference in differences:
        yield f"  {show_name(difference.path)}"
        before = [] if difference.before is None else difference.before.split("\n")
        after = [] if difference.after is None else difference.after.split("\n")
        changed = difflib.unified_diff(before, after, n=CONTEXT_LINES, lineterm="")
        for number, line in enumerate(changed):
            if number >= 2 and not line.startswith("@@"):  # the first two lines name files
                yield f"{line[0]}   | {shorten(show_characters(line[1:]))}".rstrip()


def shorten(line: str) -> str:
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}… ({len(line) - MAX_LINE:,} more characters)"


def review_data(review: ToolReview, others: Collection[str], *, accepted: bool) -> dict[str, Any]:
    return {
        "tool": review.name,
        "state": state_word(review),
        "why": review.why,
        "accepted": accepted,
        "hash": review.digest or None,
        "pinned": [] if review.pin is None else sorted(review.pin.hashes),
        "differences": [{"path": one.path, "before": one.before, "after": one.after} for one in review.differences()],
        "hints": [hint_data(hint) for hint in review.hints(others)],
    }


def hint_data(hint: InstructionHint) -> dict[str, str]:
    return {"kind": str(hint.kind), "path": hint.path, "excerpt": hint.excerpt}
