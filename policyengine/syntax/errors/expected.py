"""Descriptions of the tokens that would have been valid at a syntax error, in the terms of the language guide."""

from __future__ import annotations

from collections.abc import Iterable

VALUES = frozenset("NUMBER STRING DURATION DATE CLOCK IP HASH true false NAME [ -".split())
OPERANDS = VALUES | frozenset("( count sum distinct".split())
CONDITIONS = OPERANDS | frozenset("not after no".split())
QUANTIFIED = CONDITIONS | frozenset("any all".split())
FIXTURE_VALUES = VALUES | {"{"}
COMPARISONS = frozenset("== != < <= > >= in not below has like matches overlaps subset within is".split())
OPERATORS = COMPARISONS | frozenset("and or + - * else".split())
HEADS = frozenset(
    "export enum entity let define scope issuer attester facts users user anyone agent delegation guard rate budget "
    "profile invariant fixture test map paths tasks".split()
)
OUTCOMES = frozenset("allow deny throttle confirm not first".split())
CLOSERS = ("}", ")", "]")
END = "$END"

TERMINAL_GROUPS: tuple[tuple[frozenset[str], str], ...] = (
    (QUANTIFIED, "a condition"),
    (CONDITIONS, "a condition"),
    (OPERANDS, "a value"),
    (FIXTURE_VALUES, "a value"),
    (HEADS, "a declaration (`agent`, `guard`, `scope`, …)"),
    (OUTCOMES, "an outcome (`allow`, `deny`, …)"),
)
TERMINAL_NAMES = {
    "NAME": "a name",
    "METHOD": "a method",
    "PATH": "a path",
    "TOOLPAT": "a tool",
    "STRING": "a string",
    "NUMBER": "a number",
    "DURATION": "a duration",
    "DATE": "a date",
    "CLOCK": "a time of day",
    "IP": "an address",
    "HASH": "a hash",
    "RATE": "a rate",
    "FACTOR": "a factor",
}
TERMINAL_EXAMPLES = {
    "METHOD": "`GET`",
    "PATH": "`/v1/invoices/{id}`",
    "TOOLPAT": "`billing/refund`",
    "DURATION": "`15m`",
    "DATE": "`2028-01-01`",
    "CLOCK": "`08:00`",
    "HASH": "`sha256:9f2c`",
    "RATE": "`100/1m`",
    "FACTOR": "`x3`",
}
UNMENTIONED_TERMINALS = frozenset(["RESERVED", "OPTIONAL", "DATA_RATE"])
MAX_ALTERNATIVES = 4


def continues_expression(accepted: frozenset[str]) -> bool:
    """Return whether an operand precedes this position, so that an operator may follow."""
    return "*" in accepted or {"and", "or"} <= accepted


def describe_alternatives(accepted: frozenset[str], order: Iterable[str]) -> list[str]:
    """Describe the accepted terminals in at most four groups; `order` is their order in the grammar."""
    rest, groups = set(accepted - UNMENTIONED_TERMINALS), []
    if "PATH" in rest:
        rest.discard("|")  # a second method: valid, but rarely the missing part
    if continues_expression(accepted):
        rest -= OPERATORS | {"[", "(", "STRING"}
        if not rest:
            return ["an operator"]
    for members, phrase in TERMINAL_GROUPS:
        if members <= rest:
            groups.append(phrase)
            rest -= members
    if {"METHOD", "TOOL", "ACTION", "NAME"} <= rest:
        groups.append("a scope")
        rest.discard("NAME")
    values = [TERMINAL_NAMES[name] for name in TERMINAL_NAMES if name in rest]
    words = [
        f"`{word}`"
        for word in order
        if word in rest and word not in TERMINAL_NAMES and word not in CLOSERS and word != END
    ]
    closers = [f"`{closer}`" for closer in CLOSERS if closer in rest]
    return _cut(groups + values + words, closers + (["the end of the file"] if END in rest and not groups else []))


def _cut(choices: list[str], endings: list[str]) -> list[str]:
    room = MAX_ALTERNATIVES - len(endings)
    return (choices if len(choices) <= room else [*choices[:room], "…"]) + endings


def join_alternatives(choices: list[str]) -> str:
    """Join alternatives, as in `a method, a path or `TOOL``; after an ellipsis, leave out the `or`."""
    if len(choices) < 2 or choices[-1] == "…":
        return ", ".join(choices)
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def example_for(accepted: frozenset[str]) -> str | None:
    """Return an example of the accepted terminal if only one kind is accepted, else None."""
    kinds = accepted - UNMENTIONED_TERMINALS - ({"|"} if "PATH" in accepted else set())
    return TERMINAL_EXAMPLES.get(min(kinds)) if len(kinds) == 1 else None
