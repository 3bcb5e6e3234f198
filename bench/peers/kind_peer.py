"""What the peers of `kinds` share: the questions of policyengine in a flat shape, and the reasons why a peer cannot
express a kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Protocol

from bench.kind_questions import APPROVED

Question = dict[str, Any]

NO_STATE = (
    "The engine keeps no state: the caller has to count, to remember, or to ensure that an approval is used only once."
)
NO_PENDING = "The engine has no value for a fact that will be known later."
CANNOT = {
    **dict.fromkeys(("throttle", "rate charged", "rate peeked at", "history"), NO_STATE),
    **dict.fromkeys(APPROVED, NO_STATE),
    "fact pending": NO_PENDING,
}
UNNAMED = "Outcome only: the answer does not name the fact."
UNBOUND = "Outcome and message only: nothing binds an approval to the request."
CHAIN_AS_DATA = "The caller adds the next agent to each hop and passes times as numbers."
BINARY = "The decimal is passed as a binary fraction."


class KindPeer(Protocol):
    """A peer engine that is asked about kinds of questions.

    `cannot` has the kinds that the peer cannot express, and why; `partial` has what its answer to a kind lacks.
    `question` is made before the clock starts; `outcome` reads the answer after it has stopped.
    """

    cannot: ClassVar[Mapping[str, str]]
    partial: ClassVar[Mapping[str, str]]

    def question(self, asked: Question) -> Any: ...

    def ask_function(self, kind: str) -> Callable[[Any], Any]: ...

    def outcome(self, answer: Any) -> str: ...


def flat_question(asked: Question) -> Question:
    """Return the facts of a question as one dictionary, with a decimal as a float and the time as a number."""
    facts: Question = {
        "agent": asked["agent"]["id"],
        "issuer": asked["agent"]["issuer"],
        "groups": asked["agent"]["groups"],
        "method": asked["request"]["method"],
        "path": asked["request"]["path"],
        "scopes": asked["credential"]["scopes"],
        "attested": asked.get("attestation", {}).get("verified", False),
        **asked.get("context", {}),
    }
    if isinstance(amount := facts.get("amount"), Decimal):
        facts["amount"] = float(amount)
    if "chain" in asked:
        hops = asked["chain"]["hops"]
        names = [*(hop["agent"] for hop in hops[1:]), facts["agent"]]
        facts["hops"] = [_flat_hop(hop, name) for hop, name in zip(hops, names, strict=True)]
        facts["now"] = int(datetime.now().timestamp())
    return facts


def _flat_hop(hop: Question, following: str) -> Question:
    issued = int(datetime.fromisoformat(hop["issued_at"]).timestamp())
    return {**hop, "issued_at": issued, "to": following}
