"""How an effect of a guard is written: its first word, and whether it says what must hold or when to act."""

from __future__ import annotations

import re
from typing import assert_never

from policyengine import kernel as k

WRITTEN_AS_DEMAND = re.compile(r"\b(require|unless)(?:[\s(]|#[^\n]*\n)*$")


def word_of(effect: k.Effect) -> str:
    """The word the rule was written with."""
    match effect:
        case k.Deny():
            return "require" if effect.words.startswith("require") else "deny"
        case k.Confirm():
            return "confirm"
        case k.Oblige():
            return effect.kind
        case _:
            assert_never(effect)


def is_demand(effect: k.Effect, condition: k.Expr) -> bool:
    """Whether the author wrote what must hold (`require`, `unless`) rather than when to act."""
    before = effect.span.source.text[effect.span.start : condition.span.start]
    return WRITTEN_AS_DEMAND.search(before) is not None or word_of(effect) == "require"
