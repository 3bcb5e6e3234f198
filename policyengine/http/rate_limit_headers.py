"""Formats limits as HTTP headers: `RateLimit` and `RateLimit-Policy` (structured fields), and `Retry-After`."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from policyengine.runtime.decision import Decision, Outcome, RateState
from policyengine.runtime.limits import MICRO, BudgetCharge, ConcurrencyCharge, LimitResult, LimitState

MAX_INTEGER = 999_999_999_999_999  # maximum of a structured field
MAX_NAME_LENGTH = 64
UNESCAPED_PUNCTUATION = (
    # Together with letters, digits and `_.-`, all visible ASCII characters except quotes, `\` and `%`.
    " !#$&'()*+,/:;<=>?@[]^`{|}~"
)

HeaderFields = tuple[tuple[str, str], ...]


class RateLimitField(NamedTuple):
    """A limit: its name, its state, and `window`, the microseconds in which it recovers completely; None for a
    concurrency limit, and for a decision from another process, which contains only the state of its limits.
    """

    name: str
    standing: LimitState
    window: int | None
    at_once: bool = False


def rate_limit_headers(decision: Decision) -> HeaderFields:
    """Return the headers of the tightest limit, and when to retry; empty if no limit applies."""
    if not decision.standings:
        return ()
    limits = tuple(map(to_rate_limit_field, decision.standings))
    first = min(limits, key=tightness)
    wait = retry_after(limits) if decision.outcome is Outcome.THROTTLE else None
    told = (("ratelimit-policy", format_policy_field(first)), ("ratelimit", format_state_field(first)))
    return told if wait is None else (*told, ("retry-after", str(wait)))


def to_rate_limit_field(one: RateState | LimitResult) -> RateLimitField:
    if isinstance(one, RateState):
        standing = LimitState(one.remaining > 0, one.limit, one.remaining, one.reset_ms * 1_000, None, one.factor)
        return RateLimitField(one.rule, standing, None)
    (charge, name, *_), standing = one
    match charge:
        case BudgetCharge(within=within):
            return RateLimitField(name, standing, within)
        case ConcurrencyCharge():
            return RateLimitField(name, standing, None, at_once=True)
        case _:
            # the current rate, which may be lower than the rate at the time of the charge
            drain = max(1, round(charge.flow.drain * standing.base))
            return RateLimitField(name, standing, -(-standing.limit * charge.token // drain) * charge.tick)


def tightness(limit: RateLimitField) -> tuple[bool, float, float]:
    """Return the sort key of a limit. Limits that stopped the request come first, then limits with the smallest
    remaining share, then limits with the longest wait."""
    how = limit.standing
    share = how.remaining / how.limit if how.limit else 0.0
    wait = how.reset if how.admitted else float("inf") if how.retry is None else how.retry
    return how.admitted, share, -wait


def retry_after(limits: tuple[RateLimitField, ...]) -> int | None:
    """Return the whole seconds until all exceeded limits admit the request; None if one of them never does."""
    waits = [one.standing.retry for one in limits if not one.standing.admitted]
    known = [wait for wait in waits if wait is not None]
    return to_whole_seconds(max(known)) if known and len(known) == len(waits) else None


def format_policy_field(limit: RateLimitField) -> str:
    """Return `"per agent";q=20;w=12`: the quota and its window in seconds."""
    window = "" if limit.window is None else f";w={clamp_integer(max(1, to_whole_seconds(limit.window)))}"
    unit = ';qu="concurrent-requests"' if limit.at_once else ""
    return f"{format_string(limit.name)};q={clamp_integer(limit.standing.limit)}{unit}{window}"


def format_state_field(limit: RateLimitField) -> str:
    """Return `"per agent";r=19;t=1`: the remaining quota, and the seconds until full recovery."""
    remaining, seconds = limit.standing.remaining, to_whole_seconds(limit.standing.reset)
    return f"{format_string(limit.name)};r={clamp_integer(remaining)};t={clamp_integer(seconds)}"


def to_whole_seconds(microseconds: int) -> int:
    return -(-microseconds // MICRO)


def clamp_integer(number: int) -> int:
    return min(number, MAX_INTEGER)


def format_string(name: str) -> str:
    """Return a string of a structured field, which allows only visible ASCII; other characters are percent-encoded."""
    return f'"{quote(name[:MAX_NAME_LENGTH], safe=UNESCAPED_PUNCTUATION)}"'
