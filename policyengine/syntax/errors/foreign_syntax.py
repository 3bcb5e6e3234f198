"""Explanations of syntax from other languages and notations, with the text to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable

from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Span
from policyengine.syntax.errors.context import METHODS, ErrorContext, shorten_text
from policyengine.syntax.errors.expected import continues_expression, example_for

MEMBERSHIP = re.compile(r"\b(?:in|below)\s+\Z")
DAY = "mon|tue|wed|thu|fri|sat|sun"
WEEKDAYS = re.compile(rf"\b({DAY})\s*-\s*({DAY})\s*\Z")
HALF_DAY = re.compile(r"(\d{1,2})(am|pm)\b")
ENDS_BOUND = re.compile(r"\bbound\s+to\s*\([^)]*\)\s*\Z")
BY_KIND = re.compile(r"=>\s*(deny|throttle|confirm|allow)\s+by\s+(guard|rate|budget|limit|rule|gate)\s+\Z")
STEP_BEFORE = re.compile(r"(?:\bexpect\s|->|[(|])\s*([^()|>#]*?)\s*\Z")
STEP_AFTER = re.compile(r"\s*([^()|>#\n]+?)\s*(->|[|)\n]|\s\}|\s(?:run|learn|ready|burst|version)\s|\Z)")
CONFIRM_BEFORE = re.compile(r"\bconfirm\s+by\b(?:(?!\b(?:confirm|deny|require)\b)[^{}])*\Z")
ISSUERS_BEFORE = re.compile(r"\bfrom\s+[\w.]+\s*(?:,\s*[\w.]+\s*)*\Z")
ENTITY_MEMBERSHIP = re.compile(r"\bin\s+[\w.]+\s*(?:,\s*[\w.]+\s*)*\Z")
FROM_ISSUER = re.compile(r"\bfrom\s+issuer\s+\Z")
TYPE_BEFORE = re.compile(r"(?:[:<]|\bor)\s*\Z")


# ── Explanations of specific mistakes ───────────────────────────────────────────────


def explain_path(s: ErrorContext) -> Diagnostic | None:
    """Explain a path that continues with a character that is invalid in paths. Return None for other errors."""
    before = s.stop.previous
    if not s.adjoins or before is None or before.type != "PATH" or s.found[:1] not in set('<{-?*#[("'):
        return None
    rest = re.compile(r"[^\s,]+").match(s.source.text, s.at)
    span = Span(s.source, s.at, rest.end() if rest else s.at + 1)
    hint = {
        "?": "the query is not part of the path; read it with `request.query`",
        "*": "`*` matches a whole segment, `**` the rest of the path",
        "-": "`*` matches a whole segment, `**` the rest of the path" if "*" in span.text else None,
    }.get(s.found[0], "write a variable segment as `{id}`, or as `{id: invoice}` if it is the id of an entity")
    return Diagnostic("E101", f"`{shorten_text(span.text)}` is not valid in a path", span, hint)


def explain_weekdays(s: ErrorContext) -> Diagnostic | None:
    """Explain `mon-fri`, which parses as a subtraction. Return None for other errors."""
    found = WEEKDAYS.search(s.source.text, s.stop.declaration, s.at) if s.found[:1].isdigit() else None
    if found is None:
        return None
    span = Span(s.source, found.start(), found.end(2))
    return Diagnostic("E101", f"`{span.text}` is not a range of days", span, f"write `{found[1]}..{found[2]}`")


def explain_missing_zone(s: ErrorContext) -> Diagnostic | None:
    """Explain a time window without a zone. The mistake is the missing zone, not the token after the window. Return
    None for other errors.
    """
    before = s.stop.previous
    if before is None or before.type != "CLOCK" or "STRING" not in s.accepted:
        return None
    span = Span(s.source, before.start, before.end)
    hint = f'add the zone: `{span.text} "Europe/Berlin"`, or `"UTC"`'
    return Diagnostic("E101", "a time window needs its time zone", span, hint)


def explain_unbounded_raise(s: ErrorContext) -> Diagnostic | None:
    """Explain `raise x2 when …` without `at most`. Return None for other errors."""
    before = s.stop.previous
    if before is None or before.type != "FACTOR" or s.found == "at":
        return None
    span = Span(s.source, before.start, before.end)
    hint = f"write its upper limit: `raise {span.text} at most 100/1m when …`"
    return Diagnostic("E101", "a raise needs `at most`", span, hint)


def explain_alternatives(s: ErrorContext) -> Diagnostic | None:
    """Explain `expect A | B -> C`, in which the end of the alternatives is not stated. Return None for other errors."""
    if s.found not in ("|", "||", "or") or "->" not in s.accepted or "|" in s.accepted:
        return None
    before = STEP_BEFORE.search(s.source.text, s.stop.declaration, s.at)
    after = STEP_AFTER.match(s.source.text, s.at + len(s.found))
    hint = "write alternatives in parentheses: `(GET /a | GET /b) -> GET /c`"
    if before is not None and after is not None and before[1]:
        both = " | ".join(shorten_text(" ".join(one[1].split())) for one in (before, after))
        hint = f"write `({both}) -> …` or `({both} -> …)`" if after[2] == "->" else f"write `({both})`"
    return s.report("E101", "alternatives in an order of calls need parentheses, which show where they end", hint)


# ── Hints for unexpected text ───────────────────────────────────────────────────────────


def foreign_syntax_hint(s: ErrorContext) -> str | None:
    """Return the first hint that applies; None if none applies."""
    return next((found for one in HINTS if (found := one(s)) is not None), None)


def clock_hint(s: ErrorContext) -> str | None:
    found = HALF_DAY.match(s.found)
    if found is None or not 1 <= int(found[1]) <= 12:
        return None
    return f"write times of day on a 24-hour clock: `{int(found[1]) % 12 + 12 * (found[2] == 'pm'):02}:00`"


def _half_day_hint(s: ErrorContext) -> str | None:
    single = "CLOCK" in s.accepted and len(s.found) == 1 and s.found.isdigit()
    return f"write hours with two digits: `0{s.found}:00`" if single else None


def _rate_hint(s: ErrorContext) -> str | None:
    """Explain `10/m` and `100 per minute`. Return None for other errors."""
    return "write the number and the period: `100/1m`" if "RATE" in s.accepted and s.found[:1].isdigit() else None


def _star_hint(s: ErrorContext) -> str | None:
    """Explain `agent *` and `user *`. Return None for other errors."""
    if not s.found.startswith("*") or "STRING" not in s.accepted:
        return None
    return {"agent": 'write `"*"` for every agent', "user": "write `user any` for every user"}.get(s.previous)


def _presence_hint(s: ErrorContext) -> str | None:
    if "present" in s.accepted and s.previous == "is":
        if s.found in ("null", "nil", "none", "None", "undefined"):
            return "write `is absent`"
        if s.found == "unknown":
            return "write `not … is known`"
        return "`is` only tests for presence; compare with `==` or `!=`"
    return None


def _entity_hint(s: ErrorContext) -> str | None:
    before = s.source.text[s.stop.declaration : s.stop.previous.start] if s.stop.previous is not None else ""
    if s.is_word and "STRING" in s.accepted and MEMBERSHIP.search(before):
        return f'write an entity as `{s.previous} "{s.found}"`'
    return None


def _list_hint(s: ErrorContext) -> str | None:
    """Explain two names in a row where a list is allowed. Return None for other errors."""
    if "," not in s.accepted or continues_expression(s.accepted) or s.at_line_start:
        return None
    if s.found in ("and", "&", "+"):
        return "write `,`"
    before = s.stop.previous
    beside = before is not None and before.type == "NAME" and s.is_word and s.found not in s.known.written.values()
    return f"write `,` between them: `{s.previous}, {shorten_text(s.found)}`" if beside else None


def _scope_name_hint(s: ErrorContext) -> str | None:
    if s.found == ":" and s.adjoins and "," in s.accepted and not continues_expression(s.accepted):
        return "use the scope's own name, not its name in credentials"
    return None


def _condition_hint(s: ErrorContext) -> str | None:
    if not s.is_word and s.found != "(":
        return None
    if s.previous in ("deny", "confirm", "warn") and "when" in s.accepted:
        return f"begin a condition with `when`: `{s.previous} when {shorten_text(s.found)} …`"
    glued = s.found.startswith(("deny", "confirm", "require"))
    if {"deny", "confirm", "require"} <= s.accepted and not continues_expression(s.accepted) and not glued:
        return f"a condition follows `require`, or `deny when`: `require {shorten_text(s.found)}`"
    return None


def _approver_hint(s: ErrorContext) -> str | None:
    if s.previous == "confirm" and s.accepted == {"by"}:
        if s.found == "from":
            return "say who approves before the issuers: `confirm by role finance from acme`"
        return "say who approves: `confirm by role finance within 15m`"
    return _approver_issuers_hint(s)


def _approver_issuers_hint(s: ErrorContext) -> str | None:
    """Explain the position and the form of `from ISSUER` in a confirm. Return None for other errors."""
    before = CONFIRM_BEFORE.search(s.source.text, s.stop.declaration, s.at)
    if before is None or "message" not in s.accepted:
        return None
    if s.found == "from":
        if ISSUERS_BEFORE.search(before[0]) is not None:
            return "list all issuers after one `from`: `from acme, partner`"
        return "write `from ISSUER` after the approvers and before `within`, `bound to`, `when` and `message`"
    return f"write only the name of the issuer: `from {s.found}`" if FROM_ISSUER.search(before[0]) else None


def _membership_hint(s: ErrorContext) -> str | None:
    inside = s.source.text.startswith(("entity", "export entity"), s.stop.declaration)
    if inside and s.found == "{" and ENTITY_MEMBERSHIP.search(s.source.text, s.stop.declaration, s.at):
        return "write `in TYPE` after the attributes: `entity user { … } in team`"
    return None


def _enum_hint(s: ErrorContext) -> str | None:
    inside = s.source.text.startswith(("enum", "export enum"), s.stop.declaration)
    if inside and s.found in ("|", "{", ",", "[", "(", ":"):
        return "list the values in ascending order: `enum plan = free < team`"
    return None


def _type_hint(s: ErrorContext) -> str | None:
    before = s.source.text[s.stop.declaration : s.at]
    if s.found == "[" and (TYPE_BEFORE.search(before) or (s.adjoins and "?" in s.accepted)):
        return "for several values, use `set<string>` or `list<string>`"
    if s.accepted == {":"} and s.found == "?":
        return f"write the `?` of an optional field after its type: `{s.previous}: string?`"
    if s.accepted == {":"} and s.is_word:
        return f"write `{s.previous}: {shorten_text(s.found)}`"
    return None


def _path_hint(s: ErrorContext) -> str | None:
    if "PATH" not in s.accepted:
        return None
    if s.found.startswith('"/') and "STRING" not in s.accepted:
        return "write the path without quotes"
    if s.found in ("http", "https"):
        return "a path must begin with `/`; read the host with `request.host`"
    if s.found == "," and s.previous in METHODS:
        return f"write several methods as `{s.previous}|POST`" if s.previous != "POST" else "write `GET|POST`"
    return None


def _bound_hint(s: ErrorContext) -> str | None:
    return "write `bound` alone" if s.found in (":", "=", "==") and s.previous == "bound" else None


def _bound_to_hint(s: ErrorContext) -> str | None:
    """Explain the position and the form of `bound to (…)` in a confirm. Return None for other errors."""
    example = "`bound to (body except body.request_id)`"
    before = s.source.text[s.stop.declaration : s.at]
    if (s.previous == "bound" and s.accepted == {"to"}) or (s.previous == "to" and s.accepted == {"("}):
        return f"in parentheses, write the objects to which an approval is bound: {example}"
    if s.found == ")" and before.rstrip().endswith("bound to ("):
        return (
            f"name the objects to which an approval is bound: {example}, "
            "or `resource` to bind only the facts that the rule reads"
        )
    if s.found == "bound" and "deny" in s.accepted:
        return "write `bound to (…)` after `within` and before `when` and `message`"
    if s.found == "within" and "when" in s.accepted and ENDS_BOUND.search(before):
        return "write `within` before `bound to (…)`"
    return None


def _example_hint(s: ErrorContext) -> str | None:
    shape = example_for(s.accepted)
    return f"for example {shape}" if shape else None


def _by_rule_hint(s: ErrorContext) -> str | None:
    """Explain `=> deny by guard "g"` and `=> deny by gate user`: only the name of the rule or gate may follow `by`.
    Return None for other errors.
    """
    found = BY_KIND.search(s.source.text, s.stop.declaration, s.at)
    if found is None or not (s.found.startswith('"') or (found[2] == "gate" and s.is_word)):
        return None
    what = "a gate" if found[2] == "gate" else "the rule"
    return f"write only the name of {what} after `by`: `{found[1]} by {shorten_text(s.found)}`"


def _test_outcome_hint(s: ErrorContext) -> str | None:
    """Explain mistakes before and after the expected outcome of a test. Return None for other errors."""
    match s.previous:
        case "with" if s.accepted == {"{"}:
            return 'write details in braces: `with { message: "…" }`'
        case "=>" if s.found == "with":
            return "write the outcome before the details: `=> deny with { … }`"
        case "repeat" if s.accepted == {"NUMBER"}:
            return "write the number of requests and their total time: `repeat 21 in 10s`"
        case "responded" if s.accepted == {"NUMBER"}:
            return "write the status: `responded 201`"
        case "forall" if s.accepted == {"request"}:
            return "write `forall request where …`"
        case "request" if s.accepted == {"where", "=>"}:
            return "begin a condition with `where`: `forall request where …`"
        case "cases" | "{" if s.accepted == {"|"}:
            return "begin a table with its columns: `| request | body.amount | => |`"
    if s.accepted == {"of"} and s.found == "else":
        return f"write a fact with its default in parentheses: `({s.previous} else 0)`"
    if s.accepted == {"in"} and s.previous.isdigit():
        return f"write the total time: `repeat {s.previous} in 10s`"
    if s.accepted == {"at"} and s.previous in ("allow", "deny", "throttle", "confirm"):
        return f"write the number of the request: `first {s.previous} at 21`"
    if s.found == "responded" and "=>" in s.accepted:
        return "write the outcome before the response: `=> allow responded 201`"
    if s.found == "by" and s.previous == "}" and "METHOD" in s.accepted:
        return "write `by …` before `with { … }`"
    return None


HINTS: tuple[Callable[[ErrorContext], str | None], ...] = (
    _bound_hint,
    _bound_to_hint,
    _star_hint,
    _presence_hint,
    _rate_hint,
    _half_day_hint,
    _entity_hint,
    _approver_hint,
    _list_hint,
    _scope_name_hint,
    _condition_hint,
    _membership_hint,
    _enum_hint,
    _type_hint,
    _path_hint,
    _by_rule_hint,
    _test_outcome_hint,
    _example_hint,
)
