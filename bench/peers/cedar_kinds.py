"""Cedar asked about kinds of questions: the caller selects the policy set by the base path, and reduces a chain to
sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, ClassVar

import cedarpy

from bench.kind_questions import LARGE_AMOUNT, LAST, MOST_AMOUNT
from bench.peers import kind_peer
from bench.peers.cedar import CedarSlicedPeer
from bench.peers.shapes import base_of, quoted
from bench.workload import Workload

Question = dict[str, Any]
STATIC = "The answer is an annotation of the deciding policy, which cannot show facts."
REDUCED = "The caller reduces the hops to a set of links, the scopes that all hops have, and the greatest age."
CANNOT = {
    **kind_peer.CANNOT,
    "quantifier over 100": "The language has no expression over the elements of a set.",
}
PAYER = 'principal == Agent::"payer", action == Action::"POST", resource'
PAY = f"""
@outcome("allow") permit({PAYER}) when {{
  context.scopes.contains("create:pay") && context.amount.lessThanOrEqual(decimal("{LARGE_AMOUNT}.0"))
}};
@outcome("confirm") permit({PAYER}) when {{
  context.scopes.contains("create:pay") && context.amount.greaterThan(decimal("{LARGE_AMOUNT}.0"))
}};
@outcome("deny") forbid({PAYER}) when {{ context.amount.greaterThan(decimal("{MOST_AMOUNT}.0")) }};
"""
TRACED = f"""
@outcome("allow") @audit("full") @notify("records@acme.example") permit({PAYER}) when {{
  context.scopes.contains("create:traced")
}};
"""
# A request for each hop, in a batch, was slower, the more so the longer the chain.
LINKS = quoted(f"records c{number}>c{number + 1}" for number in range(LAST))
CHAIN = f"""
@outcome("allow") permit(principal == Agent::"c{LAST}", action == Action::"GET", resource) when {{
  context.scopes.contains("read:chain") && context.issuer == "records" && context.all_scopes.contains("read:chain") &&
  context.oldest <= 3600 && [{LINKS}].containsAll(context.links)
}};
"""
PAY_OUTCOMES = {"policy0": "allow", "policy1": "confirm", "policy2": "deny"}  # Cedar numbers policies in their order


class CedarKindPeer(CedarSlicedPeer):
    cannot: ClassVar[Mapping[str, str]] = CANNOT
    partial: ClassVar[Mapping[str, str]] = {
        "fact absent": "An error names the fact; a `forbid` with this error would not apply.",
        "wrong type": kind_peer.UNNAMED,
        "decimal": "The decimal has at most four places.",
        "confirm": f"{STATIC} Nothing binds an approval to the request.",
        "deny with message": STATIC,
        "obligations": STATIC,
        **{f"chain of {hops}": REDUCED for hops in (1, 2, 8, 32)},
    }

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        self.sets |= {
            "/v1/pay": cedarpy.PolicySet.from_str(PAY),
            "/v1/traced": cedarpy.PolicySet.from_str(TRACED),
            "/v1/chain": cedarpy.PolicySet.from_str(CHAIN),
        }

    def question(self, asked: Any) -> Any:
        flat = kind_peer.flat_question(asked)
        if "hops" in flat:
            flat |= _reduce_hops(flat.pop("hops"), flat.pop("now"))
        amount = flat.get("amount")
        if amount is not None:
            places = Decimal(str(amount)).quantize(Decimal("0.0001"))
            flat["amount"] = {"__extn": {"fn": "decimal", "arg": str(places)}}
        return {
            "principal": {"type": "Agent", "id": flat.pop("agent")},
            "action": {"type": "Action", "id": flat.pop("method")},
            "resource": {"type": "Endpoint", "id": "e"},
            "context": {name: value for name, value in flat.items() if name != "groups"},
        }

    def ask_function(self, kind: str) -> Callable[[Any], Any]:
        return self.ask_set

    def ask_set(self, question: Question) -> str:
        base = base_of(question["context"]["path"])
        answer = cedarpy.is_authorized(question, self.sets.get(base, self.empty), self.entities)
        if not answer.allowed:
            return "deny"
        return PAY_OUTCOMES[answer.diagnostics.reasons[0]] if base == "/v1/pay" else "allow"

    def outcome(self, answer: Any) -> str:
        return str(answer)


def _reduce_hops(hops: list[Question], now: int) -> Question:
    """Return what a policy can check of a chain: its links, the scopes that all hops have, and the greatest age."""
    return {
        "links": [f"{hop['issuer']} {hop['agent']}>{hop['to']}" for hop in hops],
        "all_scopes": sorted(set[str].intersection(*(set(hop["scopes"]) for hop in hops))),
        "oldest": max(now - hop["issued_at"] for hop in hops),
    }
