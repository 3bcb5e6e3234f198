"""Compares a decision with the expectation of a test, and finds the details that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.runtime.decision import Decision, Gate, Reason
from policyengine.runtime.format_values import quote_string
from policyengine.runtime.globs import Glob
from policyengine.testcases import DetailMatchMode, ExpectedDetail, ExpectedOutcome
from policyengine.testcases.detail_text import obligation_text, rate_text, remedy_text

# The values of a decision member, as tests write them. A reason has a rule and a gate, and a test may name either.
DetailValue: TypeAlias = str | Reason


@dataclass(frozen=True, slots=True)
class DetailDifference:
    """A detail that differs, with its expected and actual value as text."""

    member: str
    expected: str
    actual: str

    def render(self) -> str:
        return f"{self.member}: expected {self.expected}, got {self.actual}"

    def to_dict(self) -> dict[str, str]:
        return {"member": self.member, "expected": self.expected, "actual": self.actual}


def meets_expectation(expected: ExpectedOutcome, decision: Decision) -> bool:
    """Return whether the decision has the expected outcome, rule or gate, and details."""
    return outcome_matches(expected, decision) and all(
        detail_holds(detail, expected, decision) for detail in expected.details
    )


def detail_differences(expected: ExpectedOutcome, decision: Decision) -> tuple[DetailDifference, ...]:
    """Return the details that differ; none if the outcome, rule or gate already differs."""
    if not outcome_matches(expected, decision):
        return ()
    failed = [detail for detail in expected.details if not detail_holds(detail, expected, decision)]
    return tuple(
        DetailDifference(
            detail.member, expected_text(detail), actual_text(detail, detail_values(detail, expected, decision))
        )
        for detail in failed
    )


def outcome_matches(expected: ExpectedOutcome, decision: Decision) -> bool:
    """Return whether outcome, rule and gate are as expected."""
    if (decision.outcome is expected.outcome) == expected.negated:
        return expected.free
    return (expected.rule is None and expected.gate is None) or any(matching_reasons(expected, decision))


def matching_reasons(expected: ExpectedOutcome, decision: Decision) -> Iterator[Reason]:
    """Yield the reasons for the outcome that match the expected rule or gate."""
    for reason in outcome_reasons(decision):
        is_named = reason.rule == expected.rule if expected.rule is not None else reason.gate is expected.gate
        if is_named or (expected.rule is None and expected.gate is None):
            yield reason


def outcome_reasons(decision: Decision) -> tuple[Reason, ...]:
    return tuple(reason for reason in decision.reasons if reason.outcome is decision.outcome)


# ── Details ───────────────────────────────────────────────────────────────────────────────────


def optional_values(name: str | None) -> tuple[str, ...]:
    return () if name is None else (name,)


DETAIL_VALUES: Mapping[str, Callable[[ExpectedOutcome, Decision], Iterable[DetailValue]]] = {
    "message": lambda expected, decision: (reason.message for reason in matching_reasons(expected, decision)),
    "reason": lambda _, decision: outcome_reasons(decision),
    "reasons": lambda _, decision: outcome_reasons(decision),
    "remedy": lambda _, decision: map(remedy_text, decision.remedies),
    "remedies": lambda _, decision: map(remedy_text, decision.remedies),
    "obligation": lambda _, decision: map(obligation_text, decision.obligations),
    "obligations": lambda _, decision: map(obligation_text, decision.obligations),
    "rate": lambda _, decision: map(rate_text, decision.rates),
    "rates": lambda _, decision: map(rate_text, decision.rates),
    "unknown": lambda _, decision: (unknown.fact for unknown in decision.unknown),
    "chain": lambda _, decision: decision.principal.chain,
    "agent": lambda _, decision: optional_values(decision.principal.agent),
    "user": lambda _, decision: optional_values(decision.principal.user),
    "issuer": lambda _, decision: optional_values(decision.principal.issuer),
}
# Members in which `*` matches any text.
GLOB_MEMBERS = frozenset(["message", "remedy", "remedies", "obligation", "obligations", "rate", "rates"])


def detail_values(detail: ExpectedDetail, expected: ExpectedOutcome, decision: Decision) -> tuple[DetailValue, ...]:
    return tuple(DETAIL_VALUES[detail.member](expected, decision))


def detail_holds(detail: ExpectedDetail, expected: ExpectedOutcome, decision: Decision) -> bool:
    came = detail_values(detail, expected, decision)
    match detail.compare:
        case DetailMatchMode.IN_ORDER:
            return came == detail.wanted
        case DetailMatchMode.AMONG:
            return all(any(value_matches(want, one, detail) for one in came) for want in detail.wanted)
        case DetailMatchMode.EXACTLY:
            named = all(any(value_matches(want, one, detail) for want in detail.wanted) for one in came)
            return named and all(any(value_matches(want, one, detail) for one in came) for want in detail.wanted)


def value_matches(want: str | Gate, came: DetailValue, detail: ExpectedDetail) -> bool:
    if isinstance(came, Reason):
        return came.gate is want if isinstance(want, Gate) else came.rule == want
    return Glob(want).matches(came) if detail.member in GLOB_MEMBERS else want == came


# ── In words ──────────────────────────────────────────────────────────────────────────────────


def expected_text(detail: ExpectedDetail) -> str:
    """Return the expected values as text: `"a" and "b"`, `exactly "a"`, `none`."""
    words = join_words(
        [str(want) if is_unquoted(want, detail) else quote_string(want) for want in detail.wanted], detail
    )
    return (
        f"exactly {words}" if detail.compare is DetailMatchMode.EXACTLY and detail.wanted and is_list(detail) else words
    )


def actual_text(detail: ExpectedDetail, came: Iterable[DetailValue]) -> str:
    words = [reason_text(one) if isinstance(one, Reason) else one if is_unquoted(one, detail) else quote_string(one)
             for one in came]  # fmt: skip
    return join_words(words if detail.compare is DetailMatchMode.IN_ORDER else dict.fromkeys(words), detail)


def reason_text(reason: Reason) -> str:
    return str(reason.gate) if reason.rule is None else quote_string(reason.rule)


def is_unquoted(one: str | Gate, detail: ExpectedDetail) -> bool:
    """Return whether a value is written without quotes: a gate or a fact."""
    return isinstance(one, Gate) or detail.member == "unknown"


def is_list(detail: ExpectedDetail) -> bool:
    return detail.member not in ("agent", "user", "issuer")


def join_words(words: Iterable[str], detail: ExpectedDetail) -> str:
    every = list(words)
    if detail.compare is DetailMatchMode.IN_ORDER:
        return " → ".join(every) or "none"
    return " and ".join([", ".join(every[:-1]), every[-1]]) if len(every) > 1 else every[0] if every else "none"
