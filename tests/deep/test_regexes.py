"""Twenty thousand regular expressions on texts made to be slow: whatever is accepted takes time in proportion."""

from __future__ import annotations

import re
import time
from random import Random

import pytest

from policyengine.runtime.patterns import PatternError, Regex, compile_regex

pytestmark = pytest.mark.deep

LENGTH = 8_000
SUSPICIOUS = 0.02  # seconds; a linear matcher needs a hundredth of that for so short a text
ATOMS = ["a", "b", "ab", "[ab]", "[^a]", ".", r"\w", r"\d", r"\s", "[a-z0-9]", "é", "1", r"\.", "^", "$", "x"]
REPEATS = ["", "", "", "*", "+", "?", "*?", "+?", "{2}", "{1,3}", "{2,}", "{0,20}"]


def pattern(random: Random, depth: int = 3) -> str:
    """Nested repeats and alternatives that compete: the food of catastrophic backtracking."""
    if depth == 0 or random.random() < 0.3:
        return random.choice(ATOMS) + random.choice(REPEATS)
    parts = [pattern(random, depth - 1) for _ in range(random.randint(1, 3))]
    match random.choice(["sequence", "group", "group", "choice"]):
        case "sequence":
            return "".join(parts)
        case "group":
            return f"({'?:' if random.random() < 0.5 else ''}{''.join(parts)}){random.choice(REPEATS)}"
        case _:
            return f"(?:{'|'.join(parts)}){random.choice(REPEATS)}"


def accepted(text: str) -> Regex | None:
    try:
        return compile_regex(text)
    except PatternError:
        return None


def attacks(random: Random, text: str) -> list[str]:
    """Long runs of what the pattern is about, with an end that does not fit."""
    letters = re.sub(r"[^ab1x]", "", text) or "a"
    runs = [letters[:4], random.choice(["a", "ab", "a1", "aab", "1", " "])]
    return [run * (LENGTH // len(run)) + end for run in runs for end in ("", "\0")][1:]


def seconds(compiled: Regex, text: str) -> float:
    """The best of three: what the machine does beside does not count."""
    found = []
    for _ in range(3):
        started = time.process_time()
        compiled.matches(text)
        found.append(time.process_time() - started)
        if found[-1] < SUSPICIOUS:
            break
    return min(found)


def grows_in_proportion(compiled: Regex, text: str) -> bool:
    """Four times the text takes about four times as long; sixteen would be quadratic."""
    once = seconds(compiled, text)
    return once < SUSPICIOUS or (once < 1 and seconds(compiled, text[:-1] * 4 + text[-1]) < 8 * once)


@pytest.mark.parametrize("seed", range(20))
def test_accepted_random_patterns_match_in_linear_time(seed: int) -> None:
    random = Random(seed)
    engines: dict[str, int] = {"re": 0, "re2": 0}
    for _ in range(1_000):
        text = pattern(random)
        compiled = accepted(text)
        if compiled is not None:
            engines[compiled.engine] += 1
            for attack in attacks(random, text):
                assert grows_in_proportion(compiled, attack), f"{compiled.engine}: {text!r} on {attack[:8]!r}…"
    assert min(engines.values()) > 50, "both engines are tried"


def test_the_attack_texts_detect_backtracking_patterns() -> None:
    """The check above can fail: these patterns are slow in `re`, which is not given them."""
    for text in ("(?:a|b)*a[ab]*1", "a*a*1"):
        slow = Regex(text, "re", re.compile(text, re.ASCII))
        assert not all(grows_in_proportion(slow, run * (LENGTH // len(run)) + "\0") for run in ("a", "aab"))
        assert accepted(text) is None or compile_regex(text).engine == "re2"
