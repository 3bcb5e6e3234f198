"""A place where the parser stopped becomes a diagnostic: the likeliest mistake, in the words of the language."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from policyengine.diagnostics import Diagnostic, Related, suggest
from policyengine.source import Source, Span
from policyengine.syntax.expected import COMPARISONS, HEADS, alternatives, continues_expression, example, spoken
from policyengine.syntax.recover import Stop, Tables

FOUND = re.compile(
    r'"(?:[^"\\\n]|\\.)*"|[^\W\d][\w.]*|\d[\w.]*|&&|\|\||==|!=|<=|>=|=>|->|\.\.|//|/\*|/[^\s,{}|]*|.', re.DOTALL
)
CODE = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|[()\[\]{}]')
CLOSING = {"(": ")", "[": "]", "{": "}"}
METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS ANY CONNECT TRACE".split())
GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+\b")
# What other languages say, and what to say here where it fits.
FOREIGN = {
    "allow": "may",
    "assert": "require",
    "can": "may",
    "const": "let",
    "def": "define",
    "extends": "in",
    "forbid": "deny",
    "if": "when",
    "permit": "may",
    "policy": "guard",
    "reject": "deny",
    "rule": "guard",
    "type": "entity",
    "var": "let",
}
MEMBERSHIP = re.compile(r"\b(?:in|below)\s+\Z")
NAME = re.compile(r"[a-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
QUOTES = {
    "'": "straight double",
    "‘": "straight double",
    "’": "straight double",
    "“": "straight",
    "”": "straight",
    "`": "double",
}


@dataclass(frozen=True, slots=True)
class Situation:
    """A stop with what a person would look at: the text found, the text before it, the brackets still open."""

    source: Source
    stop: Stop
    known: Tables
    found: str
    opened: tuple[int, ...]

    @property
    def at(self) -> int:
        return self.stop.offset

    @property
    def accepted(self) -> frozenset[str]:
        return self.stop.accepted

    @property
    def previous(self) -> str:
        return str(self.stop.previous) if self.stop.previous is not None else ""

    @property
    def adjoins(self) -> bool:
        """Whether no space stands before the place."""
        return self.stop.previous is not None and self.stop.previous.end_pos == self.at

    @property
    def at_line_start(self) -> bool:
        return not self.source.text[self.source.text.rfind("\n", 0, self.at) + 1 : self.at].strip()

    @property
    def at_margin(self) -> bool:
        return self.at == 0 or self.source.text[self.at - 1] == "\n"

    @property
    def is_word(self) -> bool:
        return self.found[:1].isalpha() or self.found[:1] == "_"

    def span(self) -> Span:
        before = self.stop.previous
        if not self.found and before is not None and before.end_pos is not None:
            return Span(self.source, before.end_pos, before.end_pos)
        return Span(self.source, self.at, self.at + len(self.found))

    def report(self, code: str, message: str, hint: str | None = None, *related: Related) -> Diagnostic:
        return Diagnostic(code, message, self.span(), hint, related)


Explanation = Callable[[Situation], Diagnostic | None]


def explain(source: Source, stop: Stop, known: Tables) -> Diagnostic:
    """The first explanation that fits."""
    match = FOUND.match(source.text, stop.offset)
    found = match[0] if match else ""
    situation = Situation(source, stop, known, found, _open_brackets(source.text, stop.declaration, stop.offset))
    return next(d for explanation in EXPLANATIONS if (d := explanation(situation)) is not None)


def _open_brackets(text: str, start: int, end: int) -> tuple[int, ...]:
    opened: list[int] = []
    for match in CODE.finditer(text, start, end):
        if match[0] in CLOSING:
            opened.append(match.start())
        elif match[0] in CLOSING.values() and opened:
            opened.pop()
    return tuple(opened)


# ── What other languages write ────────────────────────────────────────────────────────────────


def quote(s: Situation) -> Diagnostic | None:
    if s.found == '"':
        return s.report(
            "E105", "this text has no closing quote on its line", 'close it with `"`; a line break in a text is `\\n`'
        )
    if s.found in QUOTES:
        return s.report("E106", f"texts stand in straight double quotes, not in `{s.found}`", 'write `"…"`')
    return None


def comment(s: Situation) -> Diagnostic | None:
    if s.found in ("//", "/*") or (s.found == "-" and s.source.text.startswith("--", s.at) and s.at_line_start):
        return s.report(
            "E107", f"a comment begins with `#`, not with `{s.source.text[s.at : s.at + 2]}`", "write `# …`"
        )
    return None


def equals(s: Situation) -> Diagnostic | None:
    if s.found == "=" and "==" in s.accepted:
        return s.report("E108", "`=` does not compare", "write `==`")
    if (s.found == "==" and "=" in s.accepted) or (s.found == "=" and s.previous == "=" and s.adjoins):
        return s.report("E108", "`==` compares and gives no name", "write `=`")
    return None


def symbols(s: Situation) -> Diagnostic | None:
    words = {"&&": "and", "||": "or", "&": "and", "!": "not", "|": "or"}
    word = words.get(s.found)
    if word is not None and word in s.accepted:
        return s.report("E109", f"`{s.found}` is spelled `{word}` here", f"write `{word}`")
    return None


def chain(s: Situation) -> Diagnostic | None:
    word = {"<>": "!="}.get(s.found, s.found)
    if word in COMPARISONS and "and" in s.accepted and "==" not in s.accepted:
        return s.report("E110", "comparisons do not chain", "write two, joined by `and`: `a < x and x < b`")
    return None


def division(s: Situation) -> Diagnostic | None:
    if not continues_expression(s.accepted) or s.at_line_start:
        return None
    if s.found.startswith("/"):
        return Diagnostic(
            "E111", "there is no division", Span(s.source, s.at, s.at + 1), "multiply the other side instead"
        )
    if s.found in ("%", "^"):
        return s.report("E111", f"there is no operator `{s.found}`", "the operators on numbers are `+`, `-` and `*`")
    return None


def separator(s: Situation) -> Diagnostic | None:
    if s.found == ";":
        return s.report("E112", "nothing is separated by `;`", "leave it out: every item begins with a word of its own")
    if s.found == "," and "," not in s.accepted and ("}" in s.accepted or s.accepted >= HEADS):
        if s.previous == ",":
            return s.report("E112", "one `,` is enough", "leave it out")
        return s.report("E112", "no `,` belongs here", "leave it out: every item begins with a word of its own")
    if s.previous == "," and (s.found in ("}", ")", "]", "") or s.found in s.known.written.values()):
        at = (s.stop.previous.start_pos or 0) if s.stop.previous is not None else s.at
        fits = spoken(_choices(s))
        return Diagnostic(
            "E112", f"after this `,` another one must follow: {fits}", Span(s.source, at, at + 1), "or leave it out"
        )
    return None


# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


def method(s: Situation) -> Diagnostic | None:
    if s.found.upper() in METHODS and s.found not in METHODS and "METHOD" in s.accepted:
        return s.report("E114", "methods are written in capitals", f"write `{s.found.upper()}`")
    if not s.found.startswith("/") or "PATH" in s.accepted:
        return None
    if s.previous.upper() in METHODS and s.stop.previous is not None and not s.previous.isupper():
        span = Span(s.source, s.stop.previous.start_pos or 0, s.stop.previous.end_pos or 0)
        return Diagnostic("E114", "methods are written in capitals", span, f"write `{s.previous.upper()} {s.found}`")
    if "METHOD" in s.accepted or s.previous in ("may", "include", "allow", "deny", ","):
        return s.report(
            "E113",
            "a path needs its method here",
            f"write the method: `GET {s.found}`; only after `on` may it be left out",
        )
    return None


# ── Brackets ──────────────────────────────────────────────────────────────────────────────────


def bracket(s: Situation) -> Diagnostic | None:
    innermost = s.opened[-1] if s.opened else None
    if innermost is None:
        if s.found in CLOSING.values() and s.found not in s.accepted:
            return s.report(
                "E104", f"this `{s.found}` closes nothing", "leave it out, or look for what was closed too early"
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
    where = "before the end of the file" if s.found == "" else f"before this `{_cut(s.found)}`"
    return s.report("E103", f"`{closing}` is missing {where}", None, Related(f"this `{opening}` is still open", at))


# ── Names and words ───────────────────────────────────────────────────────────────────────────


def number(s: Situation) -> Diagnostic | None:
    if s.found[:1].isdigit() and not re.fullmatch(r"\d[\d_]*(?:\.\d+)?|(?:\d+(?:ms|s|m|h|d|w))+", s.found):
        message = f"`{_cut(s.found)}` is neither a number nor a duration"
        return s.report(
            "E119", message, "numbers are `10_000` or `0.5`, durations `500ms`, `90s`, `15m`, `1h30m`, `7d`"
        )
    if s.found == "," and "," not in s.accepted and s.stop.previous is not None:
        grouped = GROUPED.match(s.source.text, s.stop.previous.start_pos or 0)
        if grouped is not None and grouped.end() > s.at:
            span = Span(s.source, *grouped.span())
            return Diagnostic(
                "E119", "digits are not grouped by commas", span, f"write `{span.text.replace(',', '_')}`"
            )
    if s.found == "." and s.source.text[s.at + 1 : s.at + 2].isdigit() and "NUMBER" in s.accepted:
        return s.report("E119", "a number begins with a digit", "write `0.5`, not `.5`")
    return None


def export(s: Situation) -> Diagnostic | None:
    if s.previous == "export" and "enum" in s.accepted:
        fits = ", ".join(f"`{word}`" for word in s.known.written.values() if word in s.accepted)
        return s.report(
            "E129",
            f"`{_cut(s.found)}` cannot be exported",
            f"guards, rates and invariants apply everywhere; names can be: {fits}",
        )
    return None


def unquoted(s: Situation) -> Diagnostic | None:
    if not s.is_word or "STRING" not in s.accepted or "NAME" in s.accepted or continues_expression(s.accepted):
        return None
    return s.report("E116", f"`{s.found}` needs quotes", f'write `"{s.found}"`')


def quoted(s: Situation) -> Diagnostic | None:
    if not s.found.startswith('"') or "NAME" not in s.accepted or continues_expression(s.accepted):
        return None
    inner = s.found[1:-1]
    hint = (
        f"write `{inner}`"
        if NAME.fullmatch(inner)
        else "names are letters, digits, `_` and `.`, and begin with a lower-case letter"
    )
    return s.report("E117", f"a name stands without quotes, not as `{_cut(s.found)}`", hint)


def spelling(s: Situation) -> Diagnostic | None:
    """A name that only looks like one: a capital first, a hyphen inside, a letter outside of ASCII."""
    if s.is_word and s.found[:1].isascii() and s.found[:1].isupper() and "NAME" in s.accepted and s.found.isascii():
        return s.report(
            "E127",
            f"a name begins with a lower-case letter, unlike `{s.found}`",
            f"write `{s.found[0].lower()}{s.found[1:]}`",
        )
    if not (s.adjoins and s.stop.previous is not None and s.stop.previous.type == "NAME"):
        return None
    whole = re.compile(r"[\w.-]+").match(s.source.text, s.stop.previous.start_pos or 0)
    if whole is None or whole.end() <= s.at or (s.found == "-" and "-" in s.accepted):
        return None
    span = Span(s.source, whole.start(), whole.end())
    return Diagnostic("E127", f"`{whole[0]}` is not a name", span, "names are ASCII letters, digits, `_` and `.`")


def character(s: Situation) -> Diagnostic | None:
    if s.found and not s.found.isascii():
        return s.report(
            "E118",
            f"`{_cut(s.found)}` has a meaning only inside of quotes and comments",
            "outside of them a policy is ASCII",
        )
    if s.found in ("@", "$", "\\", "~", "&", "!", "%", "^"):
        return s.report("E118", f"`{s.found}` means nothing here", None)
    return None


def _words(s: Situation) -> list[str]:
    return [word for word in s.accepted if word[:1].islower()]


def misspelled(s: Situation) -> Diagnostic | None:
    if not s.is_word or s.found in s.accepted:
        return None
    foreign = FOREIGN.get(s.found)
    meant = foreign if foreign in s.accepted else suggest(s.found, _words(s))
    if meant is None:
        return None
    return s.report("E115", f"unknown word `{s.found}`", f"did you mean `{meant}`?")


def head(s: Situation) -> Diagnostic | None:
    if s.found in ("language", "package", "import") and HEADS & s.accepted:
        return s.report(
            "E120",
            f"`{s.found}` comes too late",
            "a file begins with `language`, `package` and its imports, in this order",
        )
    return None


def declaration(s: Situation) -> Diagnostic | None:
    if s.accepted >= HEADS and s.is_word and s.at_line_start:
        return s.report(
            "E102",
            f"`{_cut(s.found)}` begins no declaration",
            "a declaration begins with `agent`, `guard`, `scope`, `rate`, `test`, …",
        )
    return None


# ── Everything else ───────────────────────────────────────────────────────────────────────────


def _choices(s: Situation) -> list[str]:
    choices = alternatives(s.accepted, s.known.written.values())
    begins_value = s.is_word or s.found[:1].isdigit() or s.found.startswith(('"', "("))
    if begins_value and continues_expression(s.accepted) and not s.at_line_start and "an operator" not in choices:
        choices.insert(0, "an operator")
    return choices


def unexpected(s: Situation) -> Diagnostic | None:
    got = f"`{_cut(s.found)}`" if s.found else "the end of the file"
    return s.report("E101", f"expected {spoken(_choices(s))}, got {got}", _hint(s))


def _hint(s: Situation) -> str | None:
    if "present" in s.accepted and s.previous == "is":
        return "`is` asks only whether something is there; compare with `==` or `!=`"
    before = s.source.text[s.stop.declaration : s.stop.previous.start_pos] if s.stop.previous is not None else ""
    if s.is_word and "STRING" in s.accepted and MEMBERSHIP.search(before):
        return f'an entity is written `{s.previous} "{s.found}"`'
    shape = example(s.accepted)
    return f"for example {shape}" if shape else None


def _cut(text: str) -> str:
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return shown if len(shown) <= 40 else shown[:39] + "…"


EXPLANATIONS: tuple[Explanation, ...] = (
    quote,
    comment,
    number,
    equals,
    symbols,
    chain,
    division,
    head,
    export,
    method,
    bracket,
    separator,
    misspelled,
    spelling,
    unquoted,
    quoted,
    declaration,
    character,
    unexpected,
)
