"""The wording of a guard's effect: its first word, and whether it states a requirement."""

from __future__ import annotations

import re
from typing import assert_never

from policyengine import kernel as k

REQUIREMENT_WORD = re.compile(r"\b(require|unless)(?:[\s(]|#[^\n]*\n)*$")


def effect_word(effect: k.Effect) -> str:
    """Return the first word of the rule as written."""
    match effect:
        case k.Deny():
            return "require" if effect.words.startswith("require") else "deny"
        case k.Confirm():
            return "confirm"
        case k.ObligationEffect():
            return effect.kind
        case _:
            assert_never(effect)


def is_requirement(effect: k.Effect, condition: k.Expr) -> bool:
    """Return whether the rule states a requirement (`require`, `unless`) rather than the condition under which it
    acts.
    """
    before = effect.span.source.text[effect.span.start : condition.span.start]
    return REQUIREMENT_WORD.search(before) is not None or effect_word(effect) == "require"
