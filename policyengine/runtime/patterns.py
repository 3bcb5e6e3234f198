"""Regular expressions for `matches`, which match whole texts in linear time."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import Any

from policyengine.install_hints import install_command
from policyengine.runtime.regex_linearity import is_provably_linear
from policyengine.runtime.structure_checks import quote_input

try:
    import re2  # type: ignore[import-untyped]
except ImportError:  # an optional dependency; without it, loading a policy that needs it fails
    re2 = None

MAX_PATTERN_LENGTH = 1_000
RE2_MEMORY_BYTES = 8 << 20
INSTALL = f"install re2, which matches every pattern in linear time, {install_command('re2')}"
UNSUPPORTED_FEATURES = "lookaround, backreferences, possessive repeats and counts above 1,000 are not available"
# One token of a pattern, outside and inside a character class.
TOKEN_OUTSIDE_CLASS = re.compile(r"\\.?|\[\^?\]?|[^\\\[]+", re.DOTALL)
TOKEN_INSIDE_CLASS = re.compile(r"\\.?|\[:\^?[a-z]+:\]|.", re.DOTALL)


class PatternError(Exception):
    """The error for a pattern that cannot be used: `why`, and a hint."""

    def __init__(self, why: str, hint: str | None = None) -> None:
        self.why = why
        self.hint = hint
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Regex:
    """A compiled regular expression; `engine` names its implementation."""

    pattern: str
    engine: str
    compiled: Any = field(repr=False, compare=False)  # re.Pattern[str], or re2's pattern, which has no type

    def matches(self, text: str) -> bool:
        return self.compiled.fullmatch(text) is not None


def compile_regex(pattern: str) -> Regex:
    """Compile a pattern for whole texts. Classes such as `\\w` are ASCII. Raises PatternError unless it is provably
    linear."""
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise PatternError(f"a regular expression longer than {MAX_PATTERN_LENGTH:,} characters")
    if "{," in pattern:
        raise PatternError("a repeat without a minimum", "write `{0,3}`")
    mistake = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # re warns if a later Python may read a class differently
            if is_provably_linear(pattern):
                return Regex(pattern, "re", re.compile(pattern, re.ASCII))
    except (re.error, Warning) as error:
        mistake = quote_input(str(error))
    except (RecursionError, OverflowError):
        mistake = "too deeply nested or too large"
    return compile_with_re2(pattern, mistake)


def compile_with_re2(pattern: str, mistake: str | None) -> Regex:
    r"""Compile with re2. `mistake` is the error of `re`; re2 may still support the pattern (`\p{L}`). Raises
    PatternError."""
    if re2 is None:
        helps = mistake is None or mistake.startswith("bad escape")
        raise PatternError(mistake or "a regular expression that could take long", INSTALL if helps else None)
    options = re2.Options()
    options.max_mem = RE2_MEMORY_BYTES
    options.log_errors = False
    try:
        return Regex(pattern, "re2", re2.compile(expand_whitespace_classes(pattern), options))
    except (re2.error, UnicodeError) as error:
        raise PatternError(mistake or describe_re2_error(error), None if mistake else UNSUPPORTED_FEATURES) from None


def describe_re2_error(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return f"not a regular expression that matches in linear time: {quote_input(shown)}"


def expand_whitespace_classes(pattern: str) -> str:
    """Expand the white-space class, which lacks the vertical tab in re2, so that both engines agree."""
    result = []
    inside, place = False, 0
    while place < len(pattern):
        match = (TOKEN_INSIDE_CLASS if inside else TOKEN_OUTSIDE_CLASS).match(pattern, place)
        assert match is not None  # `[\s\S]` in any order matches any character
        token = match[0]
        result.append(expand_token(token, inside))
        inside = token != "]" if inside else token.startswith("[")
        place = match.end()
    return "".join(result)


def expand_token(token: str, inside: bool) -> str:
    match token, inside:
        case "\\s", True:
            return r"\s\v"
        case "\\s", False:
            return r"[\s\v]"
        case "\\S", False:
            return r"[^\s\v]"
        case _:
            return token
