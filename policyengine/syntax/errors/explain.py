"""Turns the places where the parser stopped into diagnostics. Each explanation recognizes one likely mistake, and uses
the terms of the language guide.
"""

from __future__ import annotations

import re
import unicodedata

from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.diagnostics.suggest import suggest
from policyengine.source import Source, Span
from policyengine.syntax.errors.context import METHODS, UNEXPECTED_TEXT, ErrorContext, Explainer, shorten_text
from policyengine.syntax.errors.expected import (
    COMPARISONS,
    HEADS,
    continues_expression,
    describe_alternatives,
    join_alternatives,
)
from policyengine.syntax.errors.foreign_syntax import (
    clock_hint,
    explain_alternatives,
    explain_missing_zone,
    explain_path,
    explain_unbounded_raise,
    explain_weekdays,
    foreign_syntax_hint,
)
from policyengine.syntax.errors.recovery import ErrorPosition, ParserTables

CODE = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|[()\[\]{}]')
CLOSING = {"(": ")", "[": "]", "{": "}"}
NUMBERS = "write numbers as `10_000` or `0.5`, durations as `500ms`, `90s`, `15m`, `1h30m`, `7d`"
NUMBER_WITH_COMMAS = re.compile(r"\d{1,3}(?:,\d{3})+\b")
# Keywords of other languages → the keyword here, suggested where it fits.
FOREIGN_WORDS = {
    "all": "any",
    "allow": "may",
    "anyone": "any",
    "assert": "require",
    "can": "may",
    "const": "let",
    "contains": "has",
    "def": "define",
    "equals": "==",
    "every": "any",
    "everyone": "any",
    "extends": "in",
    "forbid": "deny",
    "if": "when",
    "includes": "has",
    "permit": "may",
    "policy": "guard",
    "reject": "deny",
    "rule": "guard",
    "type": "entity",
    "var": "let",
    "when": "where",
    "where": "when",
}
UNQUOTED_TEXT = re.compile(r"\w+(?:[-.:/]+\w+)*")  # a string without its quotes: `invoice-bot`, `read:invoices`
EVERYBODY = frozenset({"all", "any", "anybody", "anyone", "every", "everybody", "everyone"})
ENDPOINTS = frozenset({*METHODS, "ACTION", "TOOL"})
DELEGATES = re.compile(r"\bmay\s+delegate\s+(?:[\w.]+\s*,\s*)*\Z")
NAME = re.compile(r"[a-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
QUOTES = {
    "'": "straight double",
    "‘": "straight double",
    "’": "straight double",
    "“": "straight",
    "”": "straight",
    "`": "double",
}


def explain_syntax_error(source: Source, stop: ErrorPosition, known: ParserTables) -> Diagnostic:
    """Return the first explanation that applies."""
    match = UNEXPECTED_TEXT.match(source.text, stop.offset)
    found = match[0] if match else ""
    situation = ErrorContext(source, stop, known, found, _open_brackets(source.text, stop.declaration, stop.offset))
    return next(d for explanation in EXPLANATIONS if (d := explanation(situation)) is not None)


def _open_brackets(text: str, start: int, end: int) -> tuple[int, ...]:
    opened: list[int] = []
    for match in CODE.finditer(text, start, end):
        if match[0] in CLOSING:
            opened.append(match.start())
        elif match[0] in CLOSING.values() and opened:
            opened.pop()
    return tuple(opened)


# ── Syntax of other languages ────────────────────────────────────────────────────────────────


def explain_quote(s: ErrorContext) -> Diagnostic | None:
    if s.found == '"':
        return s.report(
            "E105", "this string has no closing quote on its line", 'close it with `"`; write a line break as `\\n`'
        )
    if s.found in QUOTES:
        return s.report("E106", f"strings use straight double quotes, not `{s.found}`", 'write `"…"`')
    return None


def explain_comment(s: ErrorContext) -> Diagnostic | None:
    if s.found in ("//", "/*") or (s.found == "-" and s.source.text.startswith("--", s.at) and s.at_line_start):
        return s.report(
            "E107", f"a comment begins with `#`, not with `{s.source.text[s.at : s.at + 2]}`", "write `# …`"
        )
    return None


def explain_equals(s: ErrorContext) -> Diagnostic | None:
    if s.found == "=" and "==" in s.accepted:
        return s.report("E108", "`=` does not compare", "write `==`")
    if (s.found == "==" and "=" in s.accepted) or (s.found == "=" and s.previous == "=" and s.adjoins):
        return s.report("E108", "`==` compares and does not define a name", "write `=`")
    return None


def explain_symbols(s: ErrorContext) -> Diagnostic | None:
    words = {"&&": "and", "||": "or", "&": "and", "!": "not", "|": "or"}
    word = words.get(s.found)
    if word is not None and word in s.accepted:
        return s.report("E109", f"`{s.found}` is spelled `{word}` here", f"write `{word}`")
    return None


def explain_chained_comparison(s: ErrorContext) -> Diagnostic | None:
    word = {"<>": "!="}.get(s.found, s.found)
    if word in COMPARISONS and "and" in s.accepted and "==" not in s.accepted:
        return s.report("E110", "comparisons do not chain", "write two comparisons joined by `and`: `a < x and x < b`")
    return None


def explain_division(s: ErrorContext) -> Diagnostic | None:
    if not continues_expression(s.accepted) or s.at_line_start:
        return None
    if s.found.startswith("/"):
        return Diagnostic(
            "E111", "the language has no division", Span(s.source, s.at, s.at + 1), "multiply the other side instead"
        )
    if s.found in ("%", "^"):
        return s.report("E111", f"unknown operator `{s.found}`", "the operators on numbers are `+`, `-` and `*`")
    return None


def explain_separator(s: ErrorContext) -> Diagnostic | None:
    if s.found == ";":
        return s.report("E112", "items are not separated by `;`", "remove it: each item begins with a keyword")
    if s.found == "," and "," not in s.accepted and ("}" in s.accepted or s.accepted >= HEADS):
        if s.previous == ",":
            return s.report("E112", "two `,` in a row", "remove one of them")
        return s.report("E112", "`,` does not belong here", "remove it: each item begins with a keyword")
    if s.previous == "," and (s.found in ("}", ")", "]", "") or s.found in s.known.written.values()):
        at = s.stop.previous.start if s.stop.previous is not None else s.at
        fits = join_alternatives(_choices(s))
        return Diagnostic(
            "E112", f"expected {fits} after this `,`", Span(s.source, at, at + 1), "add it, or remove the `,`"
        )
    return None


# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


def explain_method(s: ErrorContext) -> Diagnostic | None:
    if s.found.upper() in METHODS and s.found not in METHODS and "METHOD" in s.accepted:
        return s.report("E114", "methods must be in capitals", f"write `{s.found.upper()}`")
    if not s.found.startswith("/") or "PATH" in s.accepted:
        return None
    if s.previous.upper() in METHODS and s.stop.previous is not None and not s.previous.isupper():
        span = Span(s.source, s.stop.previous.start, s.stop.previous.end)
        return Diagnostic("E114", "methods must be in capitals", span, f"write `{s.previous.upper()} {s.found}`")
    if "METHOD" in s.accepted or s.previous in ("may", "include", "allow", "deny", ","):
        return s.report(
            "E113",
            "a path needs a method here",
            f"write the method: `GET {s.found}`; it is optional only after `on`",
        )
    return None


# ── Brackets ──────────────────────────────────────────────────────────────────────────────────


def explain_bracket(s: ErrorContext) -> Diagnostic | None:
    innermost = s.opened[-1] if s.opened else None
    if innermost is None:
        if s.found in CLOSING.values() and s.found not in s.accepted:
            return s.report(
                "E104",
                f"this `{s.found}` closes no bracket",
                "remove it, or look for a bracket that was closed too early",
            )
        return None
    opening = s.source.text[innermost]
    closing = CLOSING[opening]
    wrong_closer = s.found in CLOSING.values() and s.found != closing
    new_declaration = s.found in s.known.heads and s.at_margin
    new_line = opening != "{" and s.at_line_start and closing in s.accepted
    if not (s.found == "" or wrong_closer or new_declaration or new_line):
        return None
    at = Span(s.source, innermost, innermost + 1)
    where = "before the end of the file" if s.found == "" else f"before this `{shorten_text(s.found)}`"
    return s.report(
        "E103", f"`{closing}` is missing {where}", None, RelatedLocation(f"this `{opening}` is still open", at)
    )


# ── Names and words ───────────────────────────────────────────────────────────────────────────


def explain_number(s: ErrorContext) -> Diagnostic | None:
    if s.found[:1].isdigit() and not re.fullmatch(r"\d[\d_]*(?:\.\d+)?|(?:\d+(?:ms|s|m|h|d|w))+", s.found):
        message = f"`{shorten_text(s.found)}` is neither a number nor a duration"
        return s.report("E119", message, clock_hint(s) or NUMBERS)
    if s.found == "," and "," not in s.accepted and s.stop.previous is not None:
        grouped = NUMBER_WITH_COMMAS.match(s.source.text, s.stop.previous.start)
        if grouped is not None and grouped.end() > s.at:
            span = Span(s.source, *grouped.span())
            return Diagnostic("E119", "commas do not group digits", span, f"write `{span.text.replace(',', '_')}`")
    if s.found == "." and s.source.text[s.at + 1 : s.at + 2].isdigit() and "NUMBER" in s.accepted:
        return s.report("E119", "a number must begin with a digit", "write `0.5`, not `.5`")
    return None


def explain_export(s: ErrorContext) -> Diagnostic | None:
    if s.previous == "export" and "enum" in s.accepted:
        fits = ", ".join(f"`{word}`" for word in s.known.written.values() if word in s.accepted)
        return s.report(
            "E129",
            f"`{shorten_text(s.found)}` cannot be exported",
            f"guards, rates and budgets always apply everywhere; you can export {fits}",
        )
    return None


def explain_missing_quotes(s: ErrorContext) -> Diagnostic | None:
    if not s.is_word or "STRING" not in s.accepted or "NAME" in s.accepted or continues_expression(s.accepted):
        return None
    whole = UNQUOTED_TEXT.match(s.source.text, s.at)
    span = Span(s.source, s.at, whole.end() if whole else s.at + len(s.found))
    hint = f'write `"{span.text}"`'
    if span.text in EVERYBODY and s.previous == "agent":
        hint = f'write `"*"` for every agent: `"{span.text}"` is an agent with that name'
    if span.text in EVERYBODY and s.previous == "user":
        hint = f'write `user any` for every user: `"{span.text}"` is a user with that name'
    return Diagnostic("E116", f"`{shorten_text(span.text)}` needs quotes", span, hint)


def explain_needless_quotes(s: ErrorContext) -> Diagnostic | None:
    if not s.found.startswith('"') or "NAME" not in s.accepted or continues_expression(s.accepted):
        return None
    inner = s.found[1:-1]
    hint = (
        f"write `{inner}`"
        if NAME.fullmatch(inner)
        else "a name may contain letters, digits, `_` and `.`, and must begin with a lower-case letter"
    )
    return s.report("E117", f"write a name without quotes, not `{shorten_text(s.found)}`", hint)


def explain_spelling(s: ErrorContext) -> Diagnostic | None:
    """Explain an endpoint after `may delegate`, and text that is almost a name: with an upper-case first letter, a
    hyphen, or a letter outside ASCII. Return None for other errors.
    """
    if s.found in ENDPOINTS and DELEGATES.search(s.source.text, 0, s.at):
        hint = f"declare a scope for it, `scope NAME {{ {s.found} … }}`, and write `may delegate NAME to …`"
        return s.report("E127", "an agent can delegate scopes, not endpoints", hint)
    if s.is_word and s.found[:1].isascii() and s.found[:1].isupper() and "NAME" in s.accepted and s.found.isascii():
        return s.report(
            "E127",
            f"a name must begin with a lower-case letter, unlike `{s.found}`",
            f"write `{s.found[0].lower()}{s.found[1:]}`",
        )
    if not (s.adjoins and s.stop.previous is not None and s.stop.previous.type == "NAME"):
        return None
    whole = re.compile(r"[\w.-]+").match(s.source.text, s.stop.previous.start)
    if whole is None or whole.end() <= s.at or (s.found == "-" and "-" in s.accepted):
        return None
    span = Span(s.source, whole.start(), whole.end())
    return Diagnostic(
        "E127", f"`{whole[0]}` is not a name", span, "a name may contain only ASCII letters, digits, `_` and `.`"
    )


def explain_character(s: ErrorContext) -> Diagnostic | None:
    if s.found and not s.found.isascii() and s.found.isspace():
        name = f"U+{ord(s.found):04X} ({unicodedata.name(s.found, 'a control character').lower()})"
        return s.report("E118", f"this is {name}, not a plain space", "write a plain space")
    if s.found and not s.found.isascii():
        return s.report(
            "E118",
            f"`{shorten_text(s.found)}` is valid only in strings and comments",
            "use ASCII characters everywhere else",
        )
    if s.found in ("@", "$", "\\", "~", "&", "!", "%", "^"):
        money = s.found == "$" and s.source.text[s.at + 1 : s.at + 2].isdigit()
        return s.report("E118", f"`{s.found}` means nothing here", "write only the number: `10_000`" if money else None)
    return None


def _words(s: ErrorContext) -> list[str]:
    return [word for word in s.accepted if word[:1].islower()]


def _similar_short_word(s: ErrorContext) -> str | None:
    """Return an accepted word of three letters that differs from the found word only in its second or its third
    letter, or in the order of its letters: in so short a word, one wrong letter is too much for `suggest`."""
    if len(s.found) != 3:
        return None
    words = [word for word in sorted(_words(s)) if len(word) == 3]
    swapped = next((word for word in words if sorted(word) == sorted(s.found)), None)
    near = (word for word in words if word[0] == s.found[0])
    return swapped or next((word for word in near if word[1] == s.found[1] or word[2] == s.found[2]), None)


def explain_misspelled_keyword(s: ErrorContext) -> Diagnostic | None:
    # `unknown` is the opposite of `known`, not a misspelling.
    if not s.is_word or s.found in s.accepted or s.found == "unknown":
        return None
    foreign = FOREIGN_WORDS.get(s.found)
    meant = foreign if foreign in s.accepted else suggest(s.found, _words(s)) or _similar_short_word(s)
    if meant is None:
        return None
    known = s.found in s.known.written.values()
    message = f"`{s.found}` does not belong here" if known else f"unknown word `{s.found}`"
    return s.report("E115", message, f"did you mean `{meant}`?")


def explain_block_head(s: ErrorContext) -> Diagnostic | None:
    if s.found in ("language", "package", "import") and HEADS & s.accepted:
        return s.report(
            "E120",
            f"`{s.found}` must come before all declarations",
            "begin the file with `language`, `package` and the imports, in this order",
        )
    return None


def explain_declaration(s: ErrorContext) -> Diagnostic | None:
    if s.accepted >= HEADS and s.is_word and s.at_line_start:
        hint = "a declaration must begin with `agent`, `guard`, `scope`, `rate`, `test`, …"
        if s.found in ("openapi", "swagger"):
            hint = "to generate a policy from a specification: `policyengine init DIR --openapi FILE`"
        return s.report("E102", f"`{shorten_text(s.found)}` does not begin a declaration", hint)
    return None


# ── Everything else ───────────────────────────────────────────────────────────────────────────


def _choices(s: ErrorContext) -> list[str]:
    choices = describe_alternatives(s.accepted, s.known.written.values())
    begins_value = s.is_word or s.found[:1].isdigit() or s.found.startswith(('"', "("))
    if begins_value and continues_expression(s.accepted) and not s.at_line_start and "an operator" not in choices:
        choices.insert(0, "an operator")
    return choices


def explain_unexpected(s: ErrorContext) -> Diagnostic | None:
    got = f"`{shorten_text(s.found)}`" if s.found else "the end of the file"
    return s.report(
        "E101", f"expected {join_alternatives(_choices(s))}, got {got}", foreign_syntax_hint(s) or _with_hint(s)
    )


def _with_hint(s: ErrorContext) -> str | None:
    after_endpoint = s.stop.previous is not None and s.stop.previous.type in ("PATH", "TOOLPAT", "STRING", "NAME")
    if s.found == "with" and after_endpoint and "," in s.accepted:
        return "`with` belongs in a scope: `scope NAME { GET /x with … }`"
    return None


EXPLANATIONS: tuple[Explainer, ...] = (
    explain_quote,
    explain_comment,
    explain_path,
    explain_weekdays,
    explain_unbounded_raise,
    explain_alternatives,
    explain_number,
    explain_equals,
    explain_symbols,
    explain_chained_comparison,
    explain_division,
    explain_block_head,
    explain_export,
    explain_method,
    explain_missing_zone,
    explain_bracket,
    explain_separator,
    explain_misspelled_keyword,
    explain_spelling,
    explain_missing_quotes,
    explain_needless_quotes,
    explain_declaration,
    explain_character,
    explain_unexpected,
)
