"""Converts the URI templates of MCP resources to `like` patterns of canonical URIs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from policyengine.http.resource_uris import EXPRESSION, canonical_uri
from policyengine.runtime.paths import MalformedPath, decode_segment

SAMPLE = "x1"
NAMES = re.compile(r"[A-Za-z0-9_.%]+(?::[0-9]+|\*)?(?:,[A-Za-z0-9_.%]+(?::[0-9]+|\*)?)*")
OPERATORS = frozenset("+./?&;#")
REFUSED_OPERATORS = {";": "has path parameters, which the gateway refuses", "#": "has a fragment"}


class TemplateError(Exception):
    """The error for a template that no pattern can express; its text completes “the template …”."""


@dataclass(frozen=True, slots=True)
class UriPattern:
    """A pattern for canonical URIs, without the URIs that match one of `excluded`. `sample` matches; `longer` has a
    slash in place of a variable that is one segment, and does not match."""

    text: str
    excluded: tuple[str, ...] = ()
    sample: str = ""
    longer: str = ""

    def matches(self, uri: str) -> bool:
        return is_like(uri, self.text) and not any(is_like(uri, one) for one in self.excluded)


def is_like(text: str, pattern: str) -> bool:
    """Return whether the operator `like` holds."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def read_template(template: str) -> tuple[UriPattern, ...]:
    """Return the patterns of a template: with and without its query, if the query is an expression. Raises
    TemplateError.
    """
    forms = [build_pattern(template, with_query=False)]
    if re.search(r"\{[?&]", template):
        forms.append(build_pattern(template, with_query=True))
    return tuple(forms)


@dataclass(slots=True)
class PatternDraft:
    """The parts of a pattern that were read: each part is a text, or a `*` with the character that its value cannot
    have. `raw` is a URI of the template."""

    parts: list[tuple[str, str]] = field(default_factory=list)
    raw: str = ""
    has_query: bool = False

    def add_text(self, text: str, raw: str) -> None:
        self.parts += [(text, "")] * bool(text)
        self.raw += raw
        self.has_query = self.has_query or "?" in raw

    def add_variable(self, prefix: str = "", *, is_free: bool = False) -> None:
        """Add a variable after a prefix; a free one may contain slashes."""
        self.parts += [*[(prefix, "")] * bool(prefix), ("*", "" if is_free else "&" if self.has_query else "/")]
        self.raw += f"{prefix}{SAMPLE}"

    def pattern(self) -> str:
        return "".join(text for text, _ in self.parts)

    def exclusions(self) -> tuple[str, ...]:
        """Return the patterns of URIs in which a variable has more than one segment or field."""
        found = []
        for at, (_, separator) in enumerate(self.parts):
            if separator and not self._touches_free_variable(at):
                before, after = ("".join(text for text, _ in part) for part in (self.parts[:at], self.parts[at + 1 :]))
                found.append(f"{before}*{separator}*{after}")
        return (*dict.fromkeys(found), *([] if self.has_query or not self.has_variables else ["*?*"]))

    def _touches_free_variable(self, at: int) -> bool:
        """Return whether only a slash separates the variable from one that may contain slashes: then every text in its
        place can be read as one segment, and a part of the other variable."""
        neighbors = (self.parts[at + 1 : at + 3], self.parts[max(0, at - 2) : at][::-1])
        return any([text for text, _ in two] == ["/", "*"] and not two[1][1] for two in neighbors)

    @property
    def has_variables(self) -> bool:
        return any(text == "*" for text, _ in self.parts)

    def longer(self) -> str:
        """Return a URI with a slash in place of the first variable that is one segment; empty without
        such a variable."""
        bounded = (at for at, (_, separator) in enumerate(self.parts) if separator == "/")
        first = next((at for at in bounded if not self._touches_free_variable(at)), None)
        if first is None:
            return ""
        texts = [SAMPLE if text == "*" else text for text, _ in self.parts]
        return "".join((*texts[:first], f"{SAMPLE}/{SAMPLE}", *texts[first + 1 :]))


def build_pattern(template: str, *, with_query: bool) -> UriPattern:
    """Return the pattern of a template, with or without the query that its expressions add. Raises TemplateError."""
    draft = PatternDraft()
    for at, part in enumerate(EXPRESSION.split(template)):
        if at % 2:
            add_expression(draft, part[1:-1], with_query=with_query)
        else:
            literal = decode_segment(part)
            if literal is None or "*" in part or "*" in literal or "{" in part or "}" in part:
                raise TemplateError("has a `*`, a brace or a broken escape in its text")
            draft.add_text(literal, part)
    if not draft.parts or not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", draft.parts[0][0]):
        raise TemplateError("begins with a variable, so that its pattern would match URIs of every kind")
    scheme, colon, rest = draft.parts[0][0].partition(":")
    draft.parts[0] = (f"{scheme.lower()}{colon}{rest}", "")
    sample = canonical_uri(draft.raw)
    if isinstance(sample, MalformedPath):
        raise TemplateError(f"describes URIs that the gateway refuses: {sample.why}")
    pattern = UriPattern(draft.pattern(), draft.exclusions(), sample, draft.longer())
    if not pattern.matches(sample) or (pattern.longer and pattern.matches(pattern.longer)):
        raise TemplateError("has a form that no pattern expresses")
    return pattern


def add_expression(draft: PatternDraft, expression: str, *, with_query: bool) -> None:
    operator = expression[:1] if expression[:1] in OPERATORS else ""
    names = expression.removeprefix(operator)
    if not NAMES.fullmatch(names):
        raise TemplateError("has an expression that is not one of RFC 6570")
    if operator in REFUSED_OPERATORS:
        raise TemplateError(REFUSED_OPERATORS[operator])
    match operator:
        case "":
            draft.add_variable()
        case "+":
            draft.add_variable(is_free=True)
        case "." | "/":
            draft.add_variable(operator, is_free=operator == "/" and ("," in names or "*" in names))
        case _ if with_query:  # a query, or more of it
            separator = "&" if draft.has_query else "?"
            draft.parts += [(separator, ""), ("*", "")]
            draft.raw += f"{separator}{names.split(',')[0].split(':')[0].removesuffix('*')}={SAMPLE}"
            draft.has_query = True
        case _:
            return
