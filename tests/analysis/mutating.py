"""Generated policies with one small random change, like that of a pull request."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

from tests.generate import Policy, kernel_of

SWAPS = (
    (r"\bdeny when\b", "deny unless"), (r"\bdeny unless\b", "deny when"), (r"\brequire\b", "deny when"),
    (r" and ", " or "), (r" or ", " and "), (r" < ", " <= "), (r" <= ", " < "), (r" > ", " >= "), (r" >= ", " > "),
    (r" == ", " != "), (r" != ", " == "), (r"\bnot ", ""), (r" 500\b", " 501"), (r"499\.99", "0.5"),
    (r'"acme"', '"evil"'), (r"\bfor any user\b", "alone"), (r"\bacts alone\b", "acts for any user"),
    (r" except [^{\n]+", " "), (r"\bbound\b", ""), (r"lifetime <= \w+", "lifetime <= 2d"),
    (r"within \w+m\b", "within 7m"), (r" bound to \((?:[^()]|\([^()]*\))*\)", ""), (r" except body\.trace_id", ""),
    (r" when [^\n}]+", ""), (r"issued by acme", "issued by plain"), (r"\bGET /", "POST /"), (r"/\*\*", ""),
    (r"depth <= \d", "depth <= 1"),
    (r"audit \w+", "audit basic"), (r"for \d+m\b", "for 3m"), (r"user \"alice\"", 'user "bob"'), (r"no cycles", ""),
)  # fmt: skip
MOST_TRIES = 60


def mutated(random: Random, policy: Policy) -> Policy | None:
    """Return the policy with one change that still checks and has another meaning; None if none is found."""
    before = kernel_of(policy)
    assert before is not None
    for _ in range(MOST_TRIES):
        changed = _changed(random, policy)
        after = kernel_of(changed) if changed != policy else None
        if after is not None and after.revision != before.revision:
            return changed
    return None


def _changed(random: Random, policy: Policy) -> Policy:
    number = random.randrange(len(policy.files))
    declarations = list(policy.files[number].declarations)
    which = random.randrange(len(declarations))
    text = declarations[which]
    if random.random() < 0.2:
        del declarations[which]
    elif random.random() < 0.2 and "\n" in text:
        lines = text.split("\n")
        del lines[random.randrange(len(lines))]
        declarations[which] = "\n".join(lines)
    else:
        fitting = [(pattern, by) for pattern, by in SWAPS if re.search(pattern, text)]
        if fitting:
            pattern, by = random.choice(fitting)
            found = random.choice(list(re.finditer(pattern, text)))
            declarations[which] = text[: found.start()] + by + text[found.end() :]
    files = list(policy.files)
    files[number] = replace(files[number], declarations=tuple(declarations))
    return Policy(tuple(files))
