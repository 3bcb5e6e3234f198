"""`with { … }` after an outcome: the expected details of a decision, one member for each kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.names.resolve import lower_fact
from policyengine.checker.type_names import join_words, quote_source
from policyengine.diagnostics.suggest import did_you_mean, suggest
from policyengine.runtime.decision import Gate, Outcome
from policyengine.runtime.globs import Glob
from policyengine.source import Span
from policyengine.spec.reason_texts import OPERATOR_OBLIGATIONS
from policyengine.syntax import nodes as ast
from policyengine.testcases.detail_text import OBLIGATION_KINDS, REMEDY_OUTCOMES, first_word
from policyengine.testcases.facts_outside_rules import all_facts_context, check_capture
from policyengine.testcases.raw_facts import ABSENT, ValueContext, check_members_unique, key_path, raw_value
from policyengine.testcases.reasons import check_rule, read_gate
from policyengine.testcases.scenario import DetailMatchMode, ExpectedDetail, ExpectedOutcome
from policyengine.vocabulary import FACT_ROOT_NAMES, FUNCTIONS

FACT_NAME = re.compile(r"[a-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
PAST_FACT = re.compile(r"past\.(?:status|output\..+)")  # a result of an earlier request, as policies write it

# Parses one value of a member; returns None if a mistake was reported.
DetailParser: TypeAlias = Callable[["DetailMember", ast.Value, ValueContext], str | Gate | None]


@dataclass(frozen=True, slots=True)
class DetailMember:
    """One kind of detail that a test can expect.

    `several` values are written as a list; `doc` and `example` go into the documentation.
    """

    name: str
    read: DetailParser
    compare: DetailMatchMode
    doc: str
    example: str
    several: bool = False
    of_reasons: bool = False  # an allow does not have this member


# ── Values ────────────────────────────────────────────────────────────────────────────────────


def read_text(member: DetailMember, value: ast.Value, reading: ValueContext) -> str | None:
    found = raw_value(value, reading) if is_text(value, reading) else None
    if isinstance(found, str) and found:
        return found
    report_invalid_value(member, value, "a string", reading)
    return None


def is_text(value: ast.Value, reading: ValueContext) -> bool:
    return isinstance(value, ast.Text) or (isinstance(value, ast.WordValue) and value.text in reading.variables)


def read_reason(member: DetailMember, value: ast.Value, reading: ValueContext) -> str | Gate | None:
    """Parse a rule in quotes, or a gate. Return None if an error was reported."""
    if isinstance(value, ast.WordValue) and value.text not in reading.variables:
        return read_gate(value.text, value.span, reading, 'reason: "{}"')
    name = read_text(member, value, reading)
    if name is not None:
        check_rule(name, value.span, reading)
    return name


def read_remedy(member: DetailMember, value: ast.Value, reading: ValueContext) -> str | None:
    return check_kind(read_text(member, value, reading), "remedy", tuple(REMEDY_OUTCOMES), value, reading)


def read_obligation(member: DetailMember, value: ast.Value, reading: ValueContext) -> str | None:
    """Parse an obligation that at least one guard has. The message of a `warn` depends on the request, so it is not
    checked. Return None if an error was reported.
    """
    found = check_kind(read_text(member, value, reading), "obligation", OBLIGATION_KINDS, value, reading)
    known = reading.catalogue.obligations
    if found is not None and first_word(found) != "warn" and not any(map(Glob(found).matches, known)):
        meant = suggest(found, known)
        all_known = f"guards require {join_words(sorted(known)[:6])}" if known else "no guard has an obligation"
        hint = f"did you mean `{meant}`?" if meant else all_known
        reading.report("E611", f"no guard has the obligation `{found}`", value.span, hint)
        return None
    return found


def read_rate(member: DetailMember, value: ast.Value, reading: ValueContext) -> str | None:
    """Parse the remaining capacity of a declared rate or budget: `per agent: 37 of 100`. Return None if an error was
    reported.
    """
    found = read_text(member, value, reading)
    if found is None:
        return None
    name, says, _ = found.rpartition(": ")
    known = reading.catalogue.limits
    if says and not any(map(Glob(name).matches, known)):
        meant = suggest(name, known)
        all_known = f"there are {join_words(sorted(known)[:6])}" if known else "there are none"
        hint = f"did you mean `{meant}`?" if meant else all_known
        reading.report("E611", f"no rate or budget is named `{name}`", value.span, hint)
        return None
    if not says and "*" not in found:
        report_invalid_value(member, value, "the remaining amount of a rate or budget", reading)
        return None
    return found


def check_kind(
    found: str | None, what: str, kinds: tuple[str, ...], value: ast.Value, reading: ValueContext
) -> str | None:
    """Return the text if its first word is a known kind or contains a `*`; otherwise report it and return None."""
    if found is None or "*" in first_word(found) or first_word(found) in kinds:
        return found
    hint = did_you_mean(first_word(found), kinds) or f"the {what} must begin with {join_words(kinds, 'or')}"
    reading.report("E611", f"`{first_word(found)}` is not a kind of {what}", value.span, hint)
    return None


def read_fact_name(member: DetailMember, value: ast.Value, reading: ValueContext) -> str | None:
    """Parse the name of a fact that policies can read. Other names, like `lower()`, are in quotes. Return None if an
    error was reported.
    """
    name = value.value if isinstance(value, ast.Text) else value.text if isinstance(value, ast.WordValue) else ""
    if not name:
        report_invalid_value(member, value, "the name of a fact", reading)
        return None
    functions = [f"{function.name}()" for function in FUNCTIONS]
    root = name.partition(".")[0]
    if name in functions or root in quantifier_variables(name, reading) or PAST_FACT.fullmatch(name):
        return name
    known = name.removeprefix("past.")  # earlier requests have the same facts
    if FACT_NAME.fullmatch(known) and known.partition(".")[0] in FACT_ROOT_NAMES:
        span = value.span if isinstance(value, ast.WordValue) else between_quotes(value.span)
        span = Span(span.source, span.start + len(name) - len(known), span.end)
        context = all_facts_context(reading, span)
        found = lower_fact(ast.Reference(known, span=span), context)
        return name if found is not None and all(check_capture(part, context) for part in k.walk(found)) else None
    if isinstance(value, ast.Text) and not FACT_NAME.fullmatch(name) and not name.endswith("()"):
        return name  # the text of an expression, or a name in brackets
    hint = (
        did_you_mean(name, [*functions, *(".".join(leaf) for leaf in reading.catalogue.leaves)])
        or f"facts must begin with {join_words(sorted(FACT_ROOT_NAMES))}"
    )
    reading.report("E602", f"unknown fact `{name}`", value.span, hint)
    return None


def between_quotes(span: Span) -> Span:
    return Span(span.source, span.start + 1, span.end - 1)


def quantifier_variables(name: str, reading: ValueContext) -> frozenset[str]:
    """Return the variables of `any x in s: …`, which reasons name; empty if `name` begins with a fact root."""
    if name.partition(".")[0] in FACT_ROOT_NAMES:
        return frozenset()
    every = (declared for _, declared in reading.catalogue.program.declarations())
    rules = (declared for declared in every if not isinstance(declared, ast.FixtureDecl | ast.TestDecl))
    inside = (node for declared in rules for node in ast.walk(declared))
    return frozenset(node.variable.text for node in inside if isinstance(node, ast.Quantifier))


def read_principal(member: DetailMember, value: ast.Value, reading: ValueContext) -> str | None:
    """Parse `"alice"`, `agent "planner"`, or the name of an issuer. Return None if an error was reported."""
    if isinstance(value, ast.EntityLiteral) and value.type.text in ("agent", "user"):
        return value.id.value
    if member.name == "issuer" and isinstance(value, ast.WordValue) and value.text not in reading.variables:
        issuer = reading.catalogue.program.find(reading.package, "issuer", ast.Name(value.text, span=value.span))
        return issuer.name if issuer else None
    return read_text(member, value, reading)


DETAIL_MEMBERS: Mapping[str, DetailMember] = {
    member.name: member
    for member in (
        DetailMember(
            "message",
            read_text,
            DetailMatchMode.AMONG,
            "the message of a reason for the outcome, as the caller sees it; after `by …`, the message of that rule or "
            "gate. `*` matches any characters",
            '"refund of 900 to *"',
            of_reasons=True,
        ),
        DetailMember(
            "reason",
            read_reason,
            DetailMatchMode.AMONG,
            "a rule (in quotes) or a gate among the reasons for the outcome",
            '"tenants are islands"',
            of_reasons=True,
        ),
        DetailMember(
            "reasons",
            read_reason,
            DetailMatchMode.EXACTLY,
            "all reasons for the outcome: exactly these rules and gates, in any order",
            '["tenants are islands", user]',
            several=True,
            of_reasons=True,
        ),
        DetailMember(
            "remedy",
            read_remedy,
            DetailMatchMode.AMONG,
            "a remedy that would change the outcome, possibly among others; `*` as in `message`",
            '"approval by role finance within 15m"',
            of_reasons=True,
        ),
        DetailMember(
            "remedies",
            read_remedy,
            DetailMatchMode.EXACTLY,
            "all remedies: exactly these",
            '["scope create:refunds"]',
            several=True,
            of_reasons=True,
        ),
        DetailMember(
            "obligation",
            read_obligation,
            DetailMatchMode.AMONG,
            "an obligation of the gateway, possibly among others; `*` as in `message`",
            '"notify *"',
        ),
        DetailMember(
            "obligations",
            read_obligation,
            DetailMatchMode.EXACTLY,
            "all obligations of the gateway: exactly these",
            '["audit full"]',
            several=True,
        ),
        DetailMember(
            "rate",
            read_rate,
            DetailMatchMode.AMONG,
            "the remaining amount of a rate or budget, possibly among others; `*` as in `message`",
            '"per agent: 37 of 100"',
        ),
        DetailMember(
            "rates",
            read_rate,
            DetailMatchMode.EXACTLY,
            "the remaining amounts of all rates and budgets of the decision: exactly these",
            '["per agent: 37 of 100"]',
            several=True,
        ),
        DetailMember(
            "unknown",
            read_fact_name,
            DetailMatchMode.AMONG,
            "an unknown fact that affected the outcome, possibly among others; a list must name exactly these facts",
            "[body.amount]",
        ),
        DetailMember(
            "chain",
            read_principal,
            DetailMatchMode.IN_ORDER,
            "the user, the delegating agents and the presenter, in this order",
            '["alice", "planner", "invoice-bot"]',
            several=True,
        ),
        DetailMember(
            "agent",
            read_principal,
            DetailMatchMode.EXACTLY,
            "the agent that makes the request (the presenter), or `absent`",
            '"invoice-bot"',
        ),
        DetailMember(
            "user", read_principal, DetailMatchMode.EXACTLY, "the user of the request, or `absent`", '"alice"'
        ),
        DetailMember(
            "issuer", read_principal, DetailMatchMode.EXACTLY, "the issuer of the presenter, or `absent`", "acme"
        ),
    )
}


# ── Members ───────────────────────────────────────────────────────────────────────────────────


def read_details(
    written: ast.RecordLiteral, claimed: ExpectedOutcome, reading: ValueContext
) -> tuple[ExpectedDetail, ...]:
    """Parse the expected details; report mistakes."""
    check_members_unique(written, reading.report)
    if not written.pairs:
        hint = f"name a detail that the decision must have: {join_words(list(DETAIL_MEMBERS)[:4], 'or')}"
        reading.report("E618", "`with` states nothing", written.span, hint)
    found = [read_detail(pair, claimed, reading) for pair in written.pairs]
    return tuple(one for one in found if one is not None)


def read_detail(pair: ast.RecordEntry, claimed: ExpectedOutcome, reading: ValueContext) -> ExpectedDetail | None:
    name = ".".join(key_path(pair))
    member = DETAIL_MEMBERS.get(name)
    if member is None:
        hint = did_you_mean(name, DETAIL_MEMBERS) or f"the known members are {join_words(DETAIL_MEMBERS)}"
        reading.report("E611", f"a decision has no detail `{name}`", pair.key.span, hint)
        return None
    found = read_values(member, pair.value, reading)
    if found is not None and check_possible(member, found, claimed, pair, reading):
        exact = member.name == "unknown" and isinstance(pair.value, ast.ValueList)
        return ExpectedDetail(name, found, DetailMatchMode.EXACTLY if exact else member.compare)
    return None


def read_values(member: DetailMember, value: ast.Value, reading: ValueContext) -> tuple[str | Gate, ...] | None:
    """Parse the values of a member; return None if a mistake was reported."""
    is_list = isinstance(value, ast.ValueList)
    if is_list != member.several and member.name != "unknown":
        report_invalid_value(member, value, "a list" if member.several else "one value", reading)
        return None
    if member.compare is DetailMatchMode.EXACTLY and isinstance(value, ast.WordValue) and value.text == ABSENT:
        return ()
    items = value.items if isinstance(value, ast.ValueList) else (value,)
    found = [member.read(member, item, reading) for item in items]
    return None if None in found else tuple(one for one in found if one is not None)


def report_invalid_value(member: DetailMember, value: ast.Value, what: str, reading: ValueContext) -> None:
    hint = f"write `{member.name}: {member.example}`"
    if isinstance(value, ast.WordValue) and value.text != ABSENT:
        hint = f'write a string in quotes: `"{value.text}"`'
    reading.report(
        "E618", f"{quote_source(value.span)} is not a valid `{member.name}`: expected {what}", value.span, hint
    )


# ── Impossible details ───────────────────────────────────────────────────────────────────────


def check_possible(
    member: DetailMember,
    values: tuple[str | Gate, ...],
    claimed: ExpectedOutcome,
    pair: ast.RecordEntry,
    reading: ValueContext,
) -> bool:
    """Report a detail that no decision with the expected outcome has. Return whether such a decision exists."""
    why = without_reasons_problem(member, values, claimed) or next(
        (said for value in values if (said := other_outcome_problem(member, str(value), claimed.possible))), None
    )
    if why is not None:
        message, hint = why
        reading.report("E619", message, pair.span, hint)
    return why is None


def without_reasons_problem(
    member: DetailMember, values: tuple[str | Gate, ...], claimed: ExpectedOutcome
) -> tuple[str, str] | None:
    """Return the message and hint if a test states reasons or remedies of an outcome that has none, or an empty list of
    reasons of an outcome that always has one; None in all other cases.
    """
    if not member.of_reasons:
        return None
    if Outcome.ALLOW not in claimed.possible:
        none = member.name == "reasons" and not values
        return ("a request that is not allowed always has a reason", "name it, or remove `reasons`") if none else None
    if claimed.negated:
        message = f"`not {claimed.outcome}` does not say which outcome is expected, so it can have no {member.name}"
        return message, f"write the outcome that you expect, or remove `{member.name}`"
    return (f"an allow has no {member.name}", "remove it, or write another outcome") if values else None


def other_outcome_problem(member: DetailMember, value: str, possible: frozenset[Outcome]) -> tuple[str, str] | None:
    """Return the message and hint for a value that only other outcomes have, or None."""
    kind = first_word(value)
    if member.read is read_remedy and not REMEDY_OUTCOMES.get(kind, possible) & possible:
        right = " or a ".join(sorted(REMEDY_OUTCOMES[kind]))
        return f"only a {right} has the remedy `{kind}`", "`policyengine decide` shows the remedies of a decision"
    if member.read is read_obligation and Outcome.ALLOW not in possible and kind in OBLIGATION_KINDS:
        only = f"only an allow carries `{kind}`"
        return (
            None if kind in OPERATOR_OBLIGATIONS else (only, f"other outcomes carry {join_words(OPERATOR_OBLIGATIONS)}")
        )
    return None
