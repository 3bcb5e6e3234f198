"""Whether a decision is what a test expects; and where its details are others, member by member."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.runtime.decision import Decision, Gate, Reason
from policyengine.runtime.format_values import quoted
from policyengine.runtime.patterns import Glob
from policyengine.testcases import Compare, Detail, Expected
from policyengine.testcases.detail_text import obligation_text, rate_text, remedy_text

# What a decision says of a member, as tests write it. A reason is its rule and its gate: either may be named.
Said: TypeAlias = str | Reason


@dataclass(frozen=True, slots=True)
class Difference:
    """A detail that is another: as it was expected, and as it came, each in words."""

    member: str
    expected: str
    actual: str

    def render(self) -> str:
        return f"{self.member}: expected {self.expected}, came {self.actual}"

    def to_dict(self) -> dict[str, str]:
        return {"member": self.member, "expected": self.expected, "actual": self.actual}


def meets(expected: Expected, decision: Decision) -> bool:
    """The outcome, among the reasons for just that outcome the rule or gate that is named, and every detail."""
    return answers(expected, decision) and all(holds(detail, expected, decision) for detail in expected.details)


def differences(expected: Expected, decision: Decision) -> tuple[Difference, ...]:
    """The details that do not hold; none where already the outcome, the rule or the gate is another."""
    if not answers(expected, decision):
        return ()
    failed = [detail for detail in expected.details if not holds(detail, expected, decision)]
    return tuple(
        Difference(detail.member, wanted_words(detail), actual_words(detail, said(detail, expected, decision)))
        for detail in failed
    )


def answers(expected: Expected, decision: Decision) -> bool:
    """Whether outcome, rule and gate are those that were expected."""
    if (decision.outcome is expected.outcome) == expected.negated:
        return expected.free
    return (expected.rule is None and expected.gate is None) or any(reasons_meant(expected, decision))


def reasons_meant(expected: Expected, decision: Decision) -> Iterator[Reason]:
    """The reasons for just that outcome, of the rule or gate that is named, if one is."""
    for reason in reasons_of(decision):
        is_named = reason.rule == expected.rule if expected.rule is not None else reason.gate is expected.gate
        if is_named or (expected.rule is None and expected.gate is None):
            yield reason


def reasons_of(decision: Decision) -> tuple[Reason, ...]:
    return tuple(reason for reason in decision.reasons if reason.outcome is decision.outcome)


# ── Details ───────────────────────────────────────────────────────────────────────────────────


def present(name: str | None) -> tuple[str, ...]:
    return () if name is None else (name,)


SAYS: Mapping[str, Callable[[Expected, Decision], Iterable[Said]]] = {
    "message": lambda expected, decision: (reason.message for reason in reasons_meant(expected, decision)),
    "reason": lambda _, decision: reasons_of(decision),
    "reasons": lambda _, decision: reasons_of(decision),
    "remedy": lambda _, decision: map(remedy_text, decision.remedies),
    "remedies": lambda _, decision: map(remedy_text, decision.remedies),
    "obligation": lambda _, decision: map(obligation_text, decision.obligations),
    "obligations": lambda _, decision: map(obligation_text, decision.obligations),
    "rate": lambda _, decision: map(rate_text, decision.rates),
    "rates": lambda _, decision: map(rate_text, decision.rates),
    "unknown": lambda _, decision: (unknown.fact for unknown in decision.unknown),
    "chain": lambda _, decision: decision.principal.chain,
    "agent": lambda _, decision: present(decision.principal.agent),
    "user": lambda _, decision: present(decision.principal.user),
    "issuer": lambda _, decision: present(decision.principal.issuer),
}
# Where `*` is any run.
WITH_RUNS = frozenset(["message", "remedy", "remedies", "obligation", "obligations", "rate", "rates"])


def said(detail: Detail, expected: Expected, decision: Decision) -> tuple[Said, ...]:
    return tuple(SAYS[detail.member](expected, decision))


def holds(detail: Detail, expected: Expected, decision: Decision) -> bool:
    came = said(detail, expected, decision)
    match detail.compare:
        case Compare.IN_ORDER:
            return came == detail.wanted
        case Compare.AMONG:
            return all(any(fits(want, one, detail) for one in came) for want in detail.wanted)
        case Compare.EXACTLY:
            named = all(any(fits(want, one, detail) for want in detail.wanted) for one in came)
            return named and all(any(fits(want, one, detail) for one in came) for want in detail.wanted)


def fits(want: str | Gate, came: Said, detail: Detail) -> bool:
    if isinstance(came, Reason):
        return came.gate is want if isinstance(want, Gate) else came.rule == want
    return Glob(want).matches(came) if detail.member in WITH_RUNS else want == came


# ── In words ──────────────────────────────────────────────────────────────────────────────────


def wanted_words(detail: Detail) -> str:
    """`"a" and "b"`, `exactly "a"`, `none`."""
    words = listed([str(want) if is_word(want, detail) else quoted(want) for want in detail.wanted], detail)
    return f"exactly {words}" if detail.compare is Compare.EXACTLY and detail.wanted and is_list(detail) else words


def actual_words(detail: Detail, came: Iterable[Said]) -> str:
    words = [reason_word(one) if isinstance(one, Reason) else one if is_word(one, detail) else quoted(one)
             for one in came]  # fmt: skip
    return listed(words if detail.compare is Compare.IN_ORDER else dict.fromkeys(words), detail)


def reason_word(reason: Reason) -> str:
    return str(reason.gate) if reason.rule is None else quoted(reason.rule)


def is_word(one: str | Gate, detail: Detail) -> bool:
    """Gates and facts stand without quotes."""
    return isinstance(one, Gate) or detail.member == "unknown"


def is_list(detail: Detail) -> bool:
    return detail.member not in ("agent", "user", "issuer")


def listed(words: Iterable[str], detail: Detail) -> str:
    every = list(words)
    if detail.compare is Compare.IN_ORDER:
        return " → ".join(every) or "none"
    return " and ".join([", ".join(every[:-1]), every[-1]]) if len(every) > 1 else every[0] if every else "none"
