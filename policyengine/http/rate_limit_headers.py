"""How limits stand, in words of HTTP: `RateLimit` and `RateLimit-Policy`, structured fields both, and `Retry-After`."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from policyengine.runtime.decision import Decision, Outcome, RateState
from policyengine.runtime.limits import MICRO, Add, Hold, Meter, Standing, Stood

LARGEST_INTEGER = 999_999_999_999_999  # of a structured field
LONGEST_NAME = 64
PLAIN = " !#$&'()*+,/:;<=>?@[]^`{|}~"  # beside letters, digits and `_.-`: all visible ASCII but quotes, `\` and `%`

Headers = tuple[tuple[str, str], ...]


class Limit(NamedTuple):
    """One limit: its name, how it stands, and `window`: in how many microseconds all of it comes back. None where it
    is no matter of time: of what is under way at once, and where only the state was kept."""

    name: str
    standing: Standing
    window: int | None
    at_once: bool = False


def rate_headers(decision: Decision) -> Headers:
    """Of the limit that is tightest, and when to come again; empty where no limit applies."""
    if not decision.standings:
        return ()
    limits = tuple(map(limit_of, decision.standings))
    first = min(limits, key=tightness)
    wait = retry_after(limits) if decision.outcome is Outcome.THROTTLE else None
    told = (("ratelimit-policy", policy_of(first)), ("ratelimit", state_of(first)))
    return told if wait is None else (*told, ("retry-after", str(wait)))


def limit_of(one: RateState | tuple[object, ...]) -> Limit:
    if isinstance(one, RateState):
        standing = Standing(one.remaining > 0, one.limit, one.remaining, one.reset_ms * 1_000, None, one.factor)
        return Limit(one.rule, standing, None)
    stood = Stood(*one)  # type: ignore[arg-type]  # what a decision keeps of it
    charge, standing = stood.limited if isinstance(stood.limited, Meter) else stood.limited.charge, stood.standing
    match charge:
        case Meter(drain=drain, full=full, tick=tick):
            return Limit(stood.name, standing, -(-full // drain) * tick)
        case Add(within=within):
            return Limit(stood.name, standing, within)
        case Hold():
            return Limit(stood.name, standing, None, at_once=True)
        case _:
            # At the pace in force, which may be below the one that the request was charged by.
            drain = max(1, round(charge.flow.drain * standing.base))
            return Limit(stood.name, standing, -(-standing.limit * charge.token // drain) * charge.tick)


def tightness(limit: Limit) -> tuple[bool, float, float]:
    """The smallest is the tightest: what stopped the request, then the smallest share that is left, then the longest
    wait."""
    how = limit.standing
    share = how.remaining / how.limit if how.limit else 0.0
    wait = how.reset if how.admitted else float("inf") if how.retry is None else how.retry
    return how.admitted, share, -wait


def retry_after(limits: tuple[Limit, ...]) -> int | None:
    """Whole seconds until all that stopped the request would let it through; None where one never would."""
    waits = [one.standing.retry for one in limits if not one.standing.admitted]
    known = [wait for wait in waits if wait is not None]
    return seconds(max(known)) if known and len(known) == len(waits) else None


def policy_of(limit: Limit) -> str:
    """`"per agent";q=20;w=12`: so many, in so many seconds."""
    window = "" if limit.window is None else f";w={whole(max(1, seconds(limit.window)))}"
    unit = ';qu="concurrent-requests"' if limit.at_once else ""
    return f"{text(limit.name)};q={whole(limit.standing.limit)}{unit}{window}"


def state_of(limit: Limit) -> str:
    """`"per agent";r=19;t=1`: what is left, and in how many seconds all of it is there again."""
    return f"{text(limit.name)};r={whole(limit.standing.remaining)};t={whole(seconds(limit.standing.reset))}"


def seconds(microseconds: int) -> int:
    return -(-microseconds // MICRO)


def whole(number: int) -> int:
    return min(number, LARGEST_INTEGER)


def text(name: str) -> str:
    """A string of a structured field, which holds visible ASCII only: anything else is written as in an address."""
    return f'"{quote(name[:LONGEST_NAME], safe=PLAIN)}"'
