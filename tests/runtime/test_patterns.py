"""Globs and regular expressions: whole texts, in linear time, one meaning whichever engine matches."""

import re
import time

import pytest
import re2
from hypothesis import assume, given
from hypothesis import strategies as st

from policyengine.runtime import patterns
from policyengine.runtime.globs import Glob
from policyengine.runtime.patterns import PatternError, compile_regex, expand_whitespace_classes
from policyengine.runtime.regex_linearity import complement, is_provably_linear, overlap, union

LONG = 50_000
AT_ONCE = 2.0  # seconds; a quadratic matcher would need minutes


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("*", "a\nb", True),
        ("abc", "abc", True),
        ("abc", "abcd", False),
        ("abc", "ABC", False),
        ("a*", "a", True),
        ("*a", "ba", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("ab*ba", "aba", False),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("*b*b*", "b", False),
        ("**", "x", True),
        ("mail/*", "mail/send/now", True),
        ("mail/*", "mailer/send", False),
        ("*.pdf", "a.pdf\n", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("a?", "ab", False),
    ],
)
def test_a_glob_matches_the_whole_text(pattern, text, matches):
    assert Glob(pattern).matches(text) is matches


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_a_glob_matches_like_its_regular_expression(pattern, text):
    expression = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
    assert Glob(pattern).matches(text) == (expression.fullmatch(text) is not None)


def test_a_glob_with_many_stars_matches_in_linear_time():
    start = time.process_time()
    assert not Glob("*a" * 500 + "b").matches("a" * LONG)
    assert time.process_time() - start < AT_ONCE


PROVED = [
    r"a*b*c*",
    r"[a-z]+@[a-z]+\.com",
    r".*@acme\.com",
    r".*\.(pdf|png|jpe?g)",
    r"[a-z0-9.-]+\.example\.com",
    r"PUT|POST|PATCH|GET",
    r"mon|tue|wed|thu|fri|sat|sun",
    r"^\d{4}-\d{2}-\d{2}$",
    r"\s*x\S",
    r"(ab|ac)*d",
    r"(?:[a-z]+-)*[0-9]",
    r"(?P<year>[0-9]+)",
    r"x{2,}y??",
    r"[^@]+@[^@]+",
    r"a|",
    r"\w{1,64}",
    r"(?:a[bc]?)+",
]
NOT_PROVED = [
    r"(a*)*",
    r"(a+)+b",
    r"(a|a)*",
    r"(a|ab)*(c|bcd)*",
    r"(a?)*",
    r".*foo.*",
    r"\w+\d+",
    r"(\w+\.)+\w+",
    r"(x+x+)+y",
    r"(?:a?){50}a{50}",
    r"(a|b|ab)*c",
    r"([a-zA-Z]+)*",
    r"(.*)*",
    r"(?:(?:a|b)*)*",
    r"a*a*",
    r"a*(b?a)*",
    r"[a-z]*a{0,200}b",
    r"(?i)abc",
    r"(?s).*",
    r"a$b",
    r"\bfoo\b",
    r"(?i:a)b",
    r"(a){0,1000}(b){0,1000}",
    r"a\Z",
]
REFUSED = [r"(a)\1", r"(?=a)a", r"(?!a)b", r"(?<=a)b", r"(?>a)b", r"a++b", r"(a)(?(1)b|c)", r"(?:ab){2000}"]
BROKEN = ["(", ")", "[", "a{2}{3}", "*a", "a**", "[z-a]", "\\", "(?P<x", "a{,3}", "x" * 1_001, "(?", "\\p{Nonsense}"]


@pytest.mark.parametrize("pattern", PROVED)
def test_a_provably_linear_pattern_uses_re(pattern):
    assert compile_regex(pattern).engine == "re"


@pytest.mark.parametrize("pattern", NOT_PROVED)
def test_an_ambiguous_pattern_is_not_provably_linear(pattern):
    assert not is_provably_linear(pattern)


@pytest.mark.parametrize("pattern", [p for p in NOT_PROVED if p not in (r"a\Z",)] + [r"\p{L}+", r"[[:alpha:]]+"])
def test_a_pattern_that_is_not_provably_linear_uses_re2(pattern):
    assert compile_regex(pattern).engine == "re2"


@pytest.mark.parametrize("pattern", REFUSED)
def test_a_pattern_that_no_linear_matcher_supports_is_an_error_with_a_hint(pattern):
    with pytest.raises(PatternError) as error:
        compile_regex(pattern)
    assert error.value.hint == "lookaround, backreferences, possessive repeats and counts above 1,000 are not available"


@pytest.mark.parametrize("pattern", BROKEN)
def test_an_invalid_pattern_is_an_error(pattern):
    with pytest.raises(PatternError):
        compile_regex(pattern)


def test_a_deeply_nested_pattern_does_not_crash():
    try:
        regex = compile_regex("(" * 490 + "a" + ")" * 490)
    except PatternError:
        return
    assert regex.matches("a")


def test_without_re2_the_error_names_the_install_command(monkeypatch):
    monkeypatch.setattr(patterns, "re2", None)
    with pytest.raises(PatternError) as error:
        compile_regex(r"(a|a)*")
    assert "in a checkout of policyengine: `pip install -c constraints.txt '.[re2]'`" in str(error.value.hint)


def test_without_re2_an_invalid_pattern_has_its_syntax_error(monkeypatch):
    monkeypatch.setattr(patterns, "re2", None)
    with pytest.raises(PatternError) as error:
        compile_regex("(")
    assert error.value.why == "missing ), unterminated subpattern at position 0"
    assert error.value.hint is None


def test_without_re2_a_provably_linear_pattern_still_matches(monkeypatch):
    monkeypatch.setattr(patterns, "re2", None)
    assert compile_regex(r"[a-z]+").matches("abc")


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        (r"abc", "abcd", False),
        (r"abc", "xabc", False),
        (r"abc$", "abc\n", False),
        (r"a.c", "a\nc", False),
        (r"\d+", "\u0661\u0662", False),
        (r"\w+", "é", False),
        (r"[^a]", "\n", True),
        (r"\s", "\v", True),
        (r"\s", "\u00a0", False),
        (r"é+", "éé", True),
        (r"a|", "", True),
        (r"(?:a*)*\s", "aa\v", True),
        (r"(?:a*)*[\s]", "aa\v", True),
        (r"(?:a*)*\S", "aa\v", False),
        (r"(?:a*)*[^\s]", "aa\v", False),
        (r"(?:a*)*\w", "aaé", False),
    ],
)
def test_both_engines_match_whole_texts_with_ascii_classes(pattern, text, matches):
    assert compile_regex(pattern).matches(text) is matches


ATTACKS = [
    (r"(a+)+b", "a" * LONG),
    (r"(a|a)*b", "a" * LONG),
    (r"(.*)*x", "y" * LONG),
    (r".*foo.*bar", "foo" * (LONG // 3)),
    (r"a*b*c*", "a" * LONG + "!"),
    (r".*@acme\.com", "@acme.co" * (LONG // 8)),
    (r"[a-z0-9.-]+\.example\.com", ".example.co" * (LONG // 11)),
    (r"(?:[a-z]+-)*[0-9]", "ab-" * (LONG // 3)),
    (r"(ab|ac)*d", "abac" * (LONG // 4)),
    (r"[a-z]*a{0,50}b", "a" * LONG),
    (r"\s*x", " " * LONG),
    (r"(?:PUT|POST|PATCH)*!", "PUTPOST" * (LONG // 7)),
    (r"(?:a[bc]?)+", "ab" * (LONG // 2) + "b"),
]


@pytest.mark.parametrize(("pattern", "text"), ATTACKS)
def test_adversarial_texts_match_in_linear_time(pattern, text):
    regex = compile_regex(pattern)
    start = time.process_time()
    assert not regex.matches(text)
    assert time.process_time() - start < AT_ONCE


# ── Generated patterns ────────────────────────────────────────────────────────────────────────

PIECE = st.sampled_from(
    ["a", "b", "c", ".", "[ab]", "[^a]", "\\d", "\\w", "\\s", "\\S", "[\\sa]", "ab", "ba", "", "é", "\\."]
)
REPEAT = st.sampled_from(["", "", "*", "+", "?", "*?", "{2}", "{0,2}", "{1,}"])
PATTERN = st.recursive(
    st.builds(lambda piece, repeat: f"(?:{piece}){repeat}", PIECE, REPEAT),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.builds(
            lambda parts, repeat: f"({'|'.join(parts)}){repeat}", st.lists(inner, min_size=1, max_size=3), REPEAT
        ),
    ),
    max_leaves=6,
)
TEXT = st.text("abc1é \v\n._", max_size=10)


@given(PATTERN, st.lists(TEXT, min_size=1, max_size=5))
def test_re_and_re2_agree_on_provably_linear_patterns(pattern, texts):
    assume(is_provably_linear(pattern))
    python, other = re.compile(pattern, re.ASCII), re2.compile(expand_whitespace_classes(pattern))
    for text in texts:
        assert (python.fullmatch(text) is None) == (other.fullmatch(text) is None), (pattern, text)


@given(PATTERN, st.text("ab", min_size=1, max_size=3))
def test_provably_linear_patterns_are_fast_on_repeated_text(pattern, part):
    assume(is_provably_linear(pattern))
    compiled = re.compile(pattern, re.ASCII)
    start = time.process_time()
    compiled.fullmatch(part * 4_000 + "!")
    assert time.process_time() - start < AT_ONCE, pattern


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"\s", r"[\s\v]"),
        (r"[\s]", r"[\s\v]"),
        (r"\S", r"[^\s\v]"),
        (r"\\s", r"\\s"),
        (r"[]\s]", r"[]\s\v]"),
        (r"[^]\s]x\s", r"[^]\s\v]x[\s\v]"),
        (r"\[\s", r"\[[\s\v]"),
        (r"[a[]\s", r"[a[][\s\v]"),
        (r"[[:alpha:]\s]\s", r"[[:alpha:]\s\v][\s\v]"),
        ("\\", "\\"),
    ],
)
def test_whitespace_classes_are_expanded_for_re2(pattern, expected):
    assert expand_whitespace_classes(pattern) == expected


RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)).map(lambda p: (p[0], p[0] + p[1])), max_size=4).map(
    tuple
)


def members(ranges) -> set[int]:
    return {point for low, high in ranges for point in range(low, high + 1) if point < 200}


@given(RANGES, RANGES)
def test_range_operations_agree_with_set_operations(left, right):
    left, right = union(left), union(right)
    assert members(union(left, right)) == members(left) | members(right)
    assert overlap(left, right) == bool(members(left) & members(right))
    assert members(complement(left)) == set(range(200)) - members(left)
