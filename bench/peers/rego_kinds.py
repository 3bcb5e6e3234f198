"""Rego by regorus asked about kinds of questions: rules of the workload as keyed data, and an engine for each of the
other endpoints, which the caller selects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from bench.kind_questions import LARGE_AMOUNT, LAST, MOST_AMOUNT
from bench.peers import kind_peer
from bench.peers.rego import OVER_DATA, data, load_rego
from bench.peers.shapes import base_of
from bench.workload import Workload

Question = dict[str, Any]
QUERY = "data.authz.outcome"
OVER_DATA_OUTCOME = OVER_DATA + '\ndefault outcome := ["deny"]\noutcome := ["allow"] if allow\n'
HEAD = """package authz
import rego.v1
default outcome := ["deny"]
granted if {{
  input.agent == "{agent}"; input.issuer == "{issuer}"; input.method == "{method}"; "{scope}" in input.scopes
}}
"""
PAY = f"""
outcome := ["deny", sprintf("nobody pays %v", [input.amount])] if {{ granted; input.amount > {MOST_AMOUNT} }}
outcome := ["confirm", sprintf("pay %v", [input.amount])] if {{
  granted; input.amount > {LARGE_AMOUNT}; input.amount <= {MOST_AMOUNT}
}}
outcome := ["allow"] if {{ granted; input.amount <= {LARGE_AMOUNT} }}
"""
TRACED = """
outcome := ["allow", "audit full", "notify records@acme.example", sprintf("this pays %v", [input.amount])] if granted
"""
LISTED = """
outcome := ["allow"] if { granted; every n in input.numbers { n >= 0 } }
"""
CHAIN = """
outcome := ["allow"] if {
  granted
  every hop in input.hops {
    hop.issuer == "records"
    "read:chain" in hop.scopes
    input.now - hop.issued_at <= 3600
    data.delegates[hop.agent] == hop.to
  }
}
"""


class RegoKindPeer:
    cannot: ClassVar[Mapping[str, str]] = kind_peer.CANNOT
    partial: ClassVar[Mapping[str, str]] = {
        "fact absent": kind_peer.UNNAMED,
        "wrong type": kind_peer.UNNAMED,
        "decimal": kind_peer.BINARY,
        "confirm": kind_peer.UNBOUND,
        **{f"chain of {hops}": kind_peer.CHAIN_AS_DATA for hops in (1, 2, 8, 32)},
    }

    def __init__(self, work: Workload) -> None:
        self.workload = load_rego(OVER_DATA_OUTCOME, json.dumps(data(work)), QUERY)
        delegates = {"delegates": {f"c{number}": f"c{number + 1}" for number in range(LAST)}}
        chain = _head(f"c{LAST}", "records", "GET", "read:chain") + CHAIN
        self.engines = {
            "/v1/pay": load_rego(_head("payer", "idp", "POST", "create:pay") + PAY, None, QUERY),
            "/v1/traced": load_rego(_head("payer", "idp", "POST", "create:traced") + TRACED, None, QUERY),
            "/v1/listed": load_rego(_head("payer", "idp", "POST", "create:listed") + LISTED, None, QUERY),
            "/v1/chain": load_rego(chain, json.dumps(delegates), QUERY),
        }

    def question(self, asked: Question) -> Question:
        return kind_peer.flat_question(asked)

    def ask_function(self, kind: str) -> Callable[[Any], Any]:
        return self.ask

    def ask(self, question: Question) -> str:
        engine = self.engines.get(base_of(question["path"]), self.workload)
        return str(engine.evaluate(msgspec.json.encode(question).decode()))

    def outcome(self, answer: str) -> str:
        return str(json.loads(answer)[0])


def _head(agent: str, issuer: str, method: str, scope: str) -> str:
    return HEAD.format(agent=agent, issuer=issuer, method=method, scope=scope)
