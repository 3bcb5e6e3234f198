"""`with { … }` after an outcome: what else a decision must say, read member by member."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.names.resolve import lower_fact
from policyengine.checker.type_names import listed, quote
from policyengine.diagnostics.model import suggest
from policyengine.runtime.decision import Gate, Outcome
from policyengine.runtime.patterns import Glob
from policyengine.source import Span
from policyengine.spec.reason_texts import FOR_THE_OPERATOR
from policyengine.syntax import nodes as ast
from policyengine.testcases.all_facts import anywhere, is_captured
from policyengine.testcases.detail_text import OBLIGATIONS, REMEDIES, kind_of
from policyengine.testcases.reasons import check_rule, gate_of
from policyengine.testcases.scenario import Compare, Detail, Expected
from policyengine.testcases.values import ABSENT, Reading, key_path, once, raw
from policyengine.vocabulary import FUNCTIONS, ROOTS

NAME = re.compile(r"[a-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
OF_THE_PAST = re.compile(r"past\.(?:status|output\..+)")  # how an earlier request came out

# Reads one value of a member; None where something was reported.
Read: TypeAlias = Callable[["Member", ast.Value, Reading], str | Gate | None]


@dataclass(frozen=True, slots=True)
class Member:
    """One thing that can be claimed. `several` is written as a list; `doc` and `example` are for the documentation."""

    name: str
    read: Read
    compare: Compare
    doc: str
    example: str
    several: bool = False
    of_reasons: bool = False  # only what is not allowed has it


# ── Values ────────────────────────────────────────────────────────────────────────────────────


def text(member: Member, value: ast.Value, reading: Reading) -> str | None:
    found = raw(value, reading) if is_text(value, reading) else None
    if isinstance(found, str) and found:
        return found
    report_shape(member, value, "a text", reading)
    return None


def is_text(value: ast.Value, reading: Reading) -> bool:
    return isinstance(value, ast.Text) or (isinstance(value, ast.WordValue) and value.text in reading.variables)


def reason(member: Member, value: ast.Value, reading: Reading) -> str | Gate | None:
    """A rule in quotes, or a gate."""
    if isinstance(value, ast.WordValue) and value.text not in reading.variables:
        return gate_of(value.text, value.span, reading, 'reason: "{}"')
    name = text(member, value, reading)
    if name is not None:
        check_rule(name, value.span, reading)
    return name


def remedy(member: Member, value: ast.Value, reading: Reading) -> str | None:
    return of_a_kind(text(member, value, reading), "remedy", tuple(REMEDIES), value, reading)


def obligation(member: Member, value: ast.Value, reading: Reading) -> str | None:
    """One that some guard asks for; what a `warn` says depends on the request."""
    found = of_a_kind(text(member, value, reading), "obligation", OBLIGATIONS, value, reading)
    known = reading.catalogue.obligations
    if found is not None and kind_of(found) != "warn" and not any(map(Glob(found).matches, known)):
        meant = suggest(found, known)
        all_known = f"guards ask for {listed(sorted(known)[:6])}" if known else "no guard asks for any"
        hint = f"did you mean `{meant}`?" if meant else all_known
        reading.report("E611", f"no guard asks for `{found}`", value.span, hint)
        return None
    return found


def rate(member: Member, value: ast.Value, reading: Reading) -> str | None:
    """What is left of a rate or budget that there is."""
    found = text(member, value, reading)
    if found is None:
        return None
    name, says, _ = found.rpartition(": ")
    known = reading.catalogue.limits
    if says and not any(map(Glob(name).matches, known)):
        meant = suggest(name, known)
        all_known = f"there are {listed(sorted(known)[:6])}" if known else "there is none"
        hint = f"did you mean `{meant}`?" if meant else all_known
        reading.report("E611", f"no rate or budget is called `{name}`", value.span, hint)
        return None
    if not says and "*" not in found:
        report_shape(member, value, "what is left of a rate", reading)
        return None
    return found


def of_a_kind(found: str | None, what: str, kinds: tuple[str, ...], value: ast.Value, reading: Reading) -> str | None:
    """The text when its first word is a kind, or may be one for all that a `*` says."""
    if found is None or "*" in kind_of(found) or kind_of(found) in kinds:
        return found
    meant = suggest(kind_of(found), kinds)
    hint = f"did you mean `{meant}`?" if meant else f"it begins with {listed(kinds, 'or')}"
    reading.report("E611", f"`{kind_of(found)}` is no kind of {what}", value.span, hint)
    return None


def fact(member: Member, value: ast.Value, reading: Reading) -> str | None:
    """The name of a fact that policies can read. In quotes stands what no name spells, such as `lower()`."""
    name = value.value if isinstance(value, ast.Text) else value.text if isinstance(value, ast.WordValue) else ""
    if not name:
        report_shape(member, value, "the name of a fact", reading)
        return None
    functions = [f"{function.name}()" for function in FUNCTIONS]
    root = name.partition(".")[0]
    if name in functions or root in quantified(name, reading) or OF_THE_PAST.fullmatch(name):
        return name
    known = name.removeprefix("past.")  # the facts of earlier requests are those of this one
    if NAME.fullmatch(known) and known.partition(".")[0] in ROOTS:
        span = value.span if isinstance(value, ast.WordValue) else between_quotes(value.span)
        span = Span(span.source, span.start + len(name) - len(known), span.end)
        context = anywhere(reading, span)
        found = lower_fact(ast.Reference(known, span=span), context)
        return name if found is not None and all(is_captured(part, context) for part in k.walk(found)) else None
    if isinstance(value, ast.Text) and not NAME.fullmatch(name) and not name.endswith("()"):
        return name  # the words of an expression, or a name in brackets
    meant = suggest(name, [*functions, *(".".join(leaf) for leaf in reading.catalogue.leaves)])
    hint = f"did you mean `{meant}`?" if meant else f"facts begin with {listed(sorted(ROOTS))}"
    reading.report("E602", f"unknown fact `{name}`", value.span, hint)
    return None


def between_quotes(span: Span) -> Span:
    return Span(span.source, span.start + 1, span.end - 1)


def quantified(name: str, reading: Reading) -> frozenset[str]:
    """The variables of `any x in s: …`, by which reasons call elements; nothing where a name cannot be one."""
    if name.partition(".")[0] in ROOTS:
        return frozenset()
    every = (declared for _, declared in reading.catalogue.program.declarations())
    rules = (declared for declared in every if not isinstance(declared, ast.FixtureDecl | ast.TestDecl))
    inside = (node for declared in rules for node in ast.walk(declared))
    return frozenset(node.variable.text for node in inside if isinstance(node, ast.Quantified))


def principal(member: Member, value: ast.Value, reading: Reading) -> str | None:
    """`"alice"`, `agent "planner"`, the word of an issuer."""
    if isinstance(value, ast.EntityLiteral) and value.type.text in ("agent", "user"):
        return value.id.value
    if member.name == "issuer" and isinstance(value, ast.WordValue) and value.text not in reading.variables:
        issuer = reading.catalogue.program.find(reading.package, "issuer", ast.Name(value.text, span=value.span))
        return issuer.name if issuer else None
    return text(member, value, reading)


MEMBERS: Mapping[str, Member] = {
    member.name: member
    for member in (
        Member("message", text, Compare.AMONG, "the words of a reason for the outcome, as the caller reads them; of "
               "the rule or gate after `by`, if one is named. `*` is any run of characters",
               '"refund of 900 to *"', of_reasons=True),
        Member("reason", reason, Compare.AMONG, "a rule in quotes, or a gate, is among the reasons for the outcome",
               '"tenants are islands"', of_reasons=True),
        Member("reasons", reason, Compare.EXACTLY, "exactly these rules and gates are the reasons for the outcome",
               '["tenants are islands", user]', several=True, of_reasons=True),
        Member("remedy", remedy, Compare.AMONG, "this would change the answer, among others; `*` as in `message`",
               '"approval by role finance within 15m"', of_reasons=True),
        Member("remedies", remedy, Compare.EXACTLY, "exactly these would", '["scope create:refunds"]',
               several=True, of_reasons=True),
        Member("obligation", obligation, Compare.AMONG, "the gateway must do this, among others; `*` as in `message`",
               '"notify *"'),
        Member("obligations", obligation, Compare.EXACTLY, "the gateway must do exactly these", '["audit full"]',
               several=True),
        Member("rate", rate, Compare.AMONG, "so much is left of this rate or budget, among others; `*` as in "
               "`message`", '"per agent: 37 of 100"'),
        Member("rates", rate, Compare.EXACTLY, "these rates and budgets were asked, and so much is left of each",
               '["per agent: 37 of 100"]', several=True),
        Member("unknown", fact, Compare.AMONG, "this fact was unknown where that mattered, among others; with a list "
               "exactly these were", "[body.amount]"),
        Member("chain", principal, Compare.IN_ORDER, "everybody from the person served to the presenter, in this "
               "order", '["alice", "planner", "invoice-bot"]', several=True),
        Member("agent", principal, Compare.EXACTLY, "the agent that presented itself, or `absent`", '"invoice-bot"'),
        Member("user", principal, Compare.EXACTLY, "the person served, or `absent`", '"alice"'),
        Member("issuer", principal, Compare.EXACTLY, "who vouches for the presenter, or `absent`", "acme"),
    )
}  # fmt: skip


# ── Members ───────────────────────────────────────────────────────────────────────────────────


def details(written: ast.RecordLiteral, claimed: Expected, reading: Reading) -> tuple[Detail, ...]:
    """What the record claims; what is wrong with it is reported."""
    once(written, reading.report)
    if not written.pairs:
        hint = f"name what the decision must have: {listed(list(MEMBERS)[:4], 'or')}"
        reading.report("E618", "`with` claims nothing", written.span, hint)
    found = [detail(pair, claimed, reading) for pair in written.pairs]
    return tuple(one for one in found if one is not None)


def detail(pair: ast.Pair, claimed: Expected, reading: Reading) -> Detail | None:
    name = ".".join(key_path(pair))
    member = MEMBERS.get(name)
    if member is None:
        meant = suggest(name, MEMBERS)
        hint = f"did you mean `{meant}`?" if meant else f"known are {listed(MEMBERS)}"
        reading.report("E611", f"a decision has no `{name}` to expect", pair.key.span, hint)
        return None
    found = wanted(member, pair.value, reading)
    if found is not None and is_possible(member, found, claimed, pair, reading):
        exact = member.name == "unknown" and isinstance(pair.value, ast.ValueList)
        return Detail(name, found, Compare.EXACTLY if exact else member.compare)
    return None


def wanted(member: Member, value: ast.Value, reading: Reading) -> tuple[str | Gate, ...] | None:
    """The values; None where something was reported."""
    is_list = isinstance(value, ast.ValueList)
    if is_list != member.several and member.name != "unknown":
        report_shape(member, value, "a list" if member.several else "one, not a list", reading)
        return None
    if member.compare is Compare.EXACTLY and isinstance(value, ast.WordValue) and value.text == ABSENT:
        return ()
    items = value.items if isinstance(value, ast.ValueList) else (value,)
    found = [member.read(member, item, reading) for item in items]
    return None if None in found else tuple(one for one in found if one is not None)


def report_shape(member: Member, value: ast.Value, what: str, reading: Reading) -> None:
    hint = f"write `{member.name}: {member.example}`"
    if isinstance(value, ast.WordValue) and value.text != ABSENT:
        hint = f'a text is written in quotes: `"{value.text}"`'
    reading.report("E618", f"{quote(value.span)} is no value of `{member.name}`: that is {what}", value.span, hint)


# ── What can never hold ───────────────────────────────────────────────────────────────────────


def is_possible(
    member: Member, values: tuple[str | Gate, ...], claimed: Expected, pair: ast.Pair, reading: Reading
) -> bool:
    """Whether some decision with that outcome has it; else it is reported."""
    why = of_no_outcome(member, values, claimed) or next(
        (said for value in values if (said := of_another(member, str(value), claimed.possible))), None
    )
    if why is not None:
        message, hint = why
        reading.report("E619", message, pair.span, hint)
    return why is None


def of_no_outcome(member: Member, values: tuple[str | Gate, ...], claimed: Expected) -> tuple[str, str] | None:
    """Reasons and remedies are of what is not allowed, and it has a reason."""
    if not member.of_reasons:
        return None
    if Outcome.ALLOW not in claimed.possible:
        none = member.name == "reasons" and not values
        return ("what is not allowed has a reason", "name it, or remove `reasons`") if none else None
    if claimed.negated:
        hint = f"write the outcome, or remove `{member.name}`"
        return f"`not {claimed.outcome}` leaves open what comes instead", hint
    return (f"an allow has no {member.name}", "remove it, or write another outcome") if values else None


def of_another(member: Member, value: str, possible: frozenset[Outcome]) -> tuple[str, str] | None:
    """What belongs to other outcomes than those that are expected."""
    kind = kind_of(value)
    if member.read is remedy and not REMEDIES.get(kind, possible) & possible:
        right = " or a ".join(sorted(REMEDIES[kind]))
        return f"`{kind}` is the remedy of a {right} only", "`policyengine decide` shows the remedies of a decision"
    if member.read is obligation and Outcome.ALLOW not in possible and kind in OBLIGATIONS:
        only = f"only an allow carries `{kind}`"
        return None if kind in FOR_THE_OPERATOR else (only, f"others carry {listed(FOR_THE_OPERATOR)}")
    return None
