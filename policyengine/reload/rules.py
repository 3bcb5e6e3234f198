"""The rules of reloads: what a reload may remove or widen. By default, a reload may remove nothing, and widen
anything."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from policyengine.diagnostics.suggest import suggest
from policyengine.reload.policy_inventory import (
    DELEGATION,
    ENTITIES,
    FILES,
    GUARDS,
    LIMITS,
    PACKAGES,
    TRUNCATED_FILES,
    Loss,
)
from policyengine.runtime.structure_checks import quote_input

WIDENING, UNPROVED = "widening", "unproved"
RULE_WORDS = (TRUNCATED_FILES, FILES, PACKAGES, GUARDS, LIMITS, DELEGATION, ENTITIES, WIDENING, UNPROVED)
REVISION = re.compile(r"sha256:[0-9a-f]{64}")
COMPARE_SECONDS = 30.0


class ReloadRuleError(ValueError):
    """The error for an unknown word in the rules of reloads."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message} ({hint})")
        self.message, self.hint = message, hint


@dataclass(frozen=True, slots=True)
class ReloadRules:
    """The rules of reloads. `allow` contains words for the kinds of losses and widenings that a reload may make, and
    revisions of policies that may be loaded with all of them. With `gate`, a reload is refused unless it is proved to
    widen nothing. `seconds` is the time limit of the comparison; 0 disables the comparison.
    """

    allow: frozenset[str] = frozenset()
    gate: bool = False
    seconds: float = COMPARE_SECONDS

    @classmethod
    def of(cls, allow: Iterable[str] = (), *, gate: bool = False, seconds: float = COMPARE_SECONDS) -> ReloadRules:
        """Build the rules. Raises ReloadRuleError."""
        return cls(frozenset(map(check_rule, allow)), gate, seconds)

    def refused(self, losses: Collection[Loss], revision: str) -> list[Loss]:
        """Return the losses that are not allowed. A revision does not cover entities, which are not part of it."""
        known = revision in self.allow
        return [loss for loss in losses if loss.kind not in self.allow and not (known and loss.kind != ENTITIES)]

    def allows(self, word: str, revision: str) -> bool:
        return word in self.allow or revision in self.allow


def check_rule(word: str) -> str:
    if word in RULE_WORDS or REVISION.fullmatch(word):
        return word
    meant = suggest(word, RULE_WORDS)
    known = ", ".join(f"`{one}`" for one in RULE_WORDS)
    hint = f"did you mean `{meant}`?" if meant else f"use {known}, or a full revision: `sha256:…`"
    raise ReloadRuleError(f"`{quote_input(word)}` is not something that a reload can allow", hint)
