"""CEL in Rust asked about kinds of questions: the caller selects the programs by the first two segments of the path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import cel

from bench.kind_questions import LARGE_AMOUNT, LAST, MOST_AMOUNT
from bench.peers import kind_peer
from bench.peers.cel import CelSlicedPeer
from bench.peers.shapes import base_of, quoted
from bench.workload import Workload

Question = dict[str, Any]
GRANTED = 'agent == "payer" && issuer == "idp" && method == "{method}" && "{scope}" in scopes'
PAY = (
    f'amount > {MOST_AMOUNT} ? ["deny", "nobody pays " + string(amount)] : '
    f'amount > {LARGE_AMOUNT} ? ["confirm", "pay " + string(amount)] : ["allow"]'
)
TRACED = '["allow", "audit full", "notify records@acme.example", "this pays " + string(amount)]'
LISTED = 'numbers.all(n, n >= 0) ? ["allow"] : ["deny"]'
# A list of pairs was faster than a map literal, than a map in a kept context, and than one program for each agent.
EDGES = quoted(f"c{number}>c{number + 1}" for number in range(LAST))
CHAIN = (
    f'agent == "c{LAST}" && issuer == "records" && method == "GET" && "read:chain" in scopes && hops.all(h, '
    'h.issuer == "records" && "read:chain" in h.scopes && now - h.issued_at <= 3600 && '
    f'(h.agent + ">" + h.to) in [{EDGES}]) ? ["allow"] : ["deny"]'
)


class CelKindPeer(CelSlicedPeer):
    cannot: ClassVar[Mapping[str, str]] = kind_peer.CANNOT
    partial: ClassVar[Mapping[str, str]] = {
        "fact absent": kind_peer.UNNAMED,
        "wrong type": kind_peer.UNNAMED,
        "decimal": kind_peer.BINARY,
        "confirm": kind_peer.UNBOUND,
        **{f"chain of {hops}": kind_peer.CHAIN_AS_DATA for hops in (1, 2, 8, 32)},
    }

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        self.whole = {
            "/v1/pay": _granted("POST", "create:pay", PAY),
            "/v1/traced": _granted("POST", "create:traced", TRACED),
            "/v1/listed": _granted("POST", "create:listed", LISTED),
            "/v1/chain": cel.compile(CHAIN),
        }

    def question(self, asked: Any) -> Question:
        return kind_peer.flat_question(asked)

    def ask_function(self, kind: str) -> Callable[[Any], Any]:
        return self.ask_programs

    def ask_programs(self, question: Question) -> Any:
        base = base_of(question["path"])
        whole = self.whole.get(base)
        if whole is not None:
            return whole.execute(question)
        context = cel.Context(variables=question)
        forbids, permits = self.programs.get(base, ((), ()))
        for program in forbids:
            if program.execute(context):
                return DENY
        for program in permits:
            try:
                if program.execute(context):
                    return ALLOW
            except RuntimeError:  # an absent fact is an undefined variable
                continue
        return DENY

    def outcome(self, answer: Any) -> str:
        return str(answer[0])


ALLOW, DENY = ["allow"], ["deny"]


def _granted(method: str, scope: str, answer: str) -> cel.Program:
    return cel.compile(f'{GRANTED.format(method=method, scope=scope)} ? ({answer}) : ["deny"]')
