"""The kinds of questions that `kinds` compares: the policy of the workload with a rule for each, and the questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any, TypeAlias

from bench import policy
from bench.measure import intern_keys
from bench.workload import Workload
from policyengine import ApprovalSettings, Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.entities import EntityData
from policyengine.stores.memory.store import MemoryStore
from policyengine.typesystem import EntityRef

Question: TypeAlias = dict[str, Any]
HOPS = (1, 2, 8, 32)
LAST = max(HOPS)
REVIEWS, ELEMENTS = 100, 100
APPROVED = ("approval evaluated", "approval used up")
LARGE_AMOUNT, MOST_AMOUNT = 500, 10_000
MORE_POLICY = """
entity user {{ roles: set<string> }}
issuer records {{ url "https://records.example"   records chains }}
scope chain.read as "read:chain" {{ GET /v1/chain/{{id}} }}
scope pay.create as "create:pay" {{ POST /v1/pay/{{id}} }}
scope traced.create as "create:traced" {{ POST /v1/traced/{{id}} }}
scope limited.read as "read:limited" {{ GET /v1/limited/{{id}} }}
scope full.read as "read:full" {{ GET /v1/full/{{id}} }}
scope reviewed.read as "read:reviewed" {{ GET /v1/reviewed/{{id}} }}
scope listed.create as "create:listed" {{ POST /v1/listed/{{id}} }}
{chain}
agent "payer" {{
  issued by idp   acts alone
  may pay.create, traced.create, limited.read, full.read, reviewed.read, listed.create
}}
guard "large payments" on POST /v1/pay/{{id}} {{
  deny when context.amount > {most} message "nobody pays {{context.amount}}"
  confirm by role finance within 15m when context.amount > {large} message "pay {{context.amount}}"
}}
guard "traced" on POST /v1/traced/{{id}} {{
  audit full   notify "records@acme.example"   warn message "this pays {{context.amount}}"
}}
rate "many" per agent.id on GET /v1/limited/{{id}} {{ 1_000_000/1h }}
rate "one" per agent.id on GET /v1/full/{{id}} {{ 1/1h }}
guard "reviewed" on GET /v1/reviewed/{{id}} {{ deny when count of GET /v1/reviewed/{{id}} within 1h > 1_000_000 }}
guard "listed" on POST /v1/listed/{{id}} {{ require (all n in context.numbers: n >= 0) }}
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of question: its outcome, and how it is asked.

    `most_ratio` and `most_us` are what it may cost in the compiled build: a multiple of the floor, and microseconds.
    `is_short`: its p99 and its cost in the pure build are bounded too. `prepare` is applied to each question before the
    clock starts.
    """

    name: str
    outcome: str
    questions: list[Question]
    most_ratio: float | None = None
    most_us: float | None = None
    evaluates: bool = False
    is_short: bool = True
    prepare: Callable[[Question], Question] = intern_keys


def policy_text(work: Workload) -> str:
    """Return the policy of the workload with rules for the other kinds."""
    chain = "\n".join(_link(number) for number in range(LAST + 1))
    facts = "context.risk: int   context.amount: number?   context.numbers: list<int>? }"
    more = MORE_POLICY.format(chain=chain, most=MOST_AMOUNT, large=LARGE_AMOUNT)
    return policy.policy(work).replace("context.risk: int }", facts) + more


def _link(number: int) -> str:
    """Return an agent of the chain, which may delegate to the next."""
    on = f'   may delegate chain.read to agent "c{number + 1}" for 1h' if number < LAST else ""
    return f'agent "c{number}" {{ issued by records   acts alone   may chain.read{on} }}'


def load_engine(work: Workload) -> Engine:
    """Return an engine that has seen the history and the rates that the kinds need."""
    carol = EntityData(EntityRef("user", "carol"), {"roles": frozenset({"finance"})}, ())
    store = MemoryStore(history_complete=True)
    trusting = ApprovalSettings(trust_callers=True)
    engine = Engine.from_text(policy_text(work), store=store, directory=EntityStore([carol]), approvals=trusting)
    for number in range(REVIEWS):
        engine.decide(_payer("GET", f"/v1/reviewed/{number}", "read:reviewed"))
    engine.decide(_payer("GET", "/v1/full/0", "read:full"))
    return engine


def kinds(work: Workload) -> list[Kind]:
    """Return the kinds that need no engine to make their questions."""
    pairs = zip(work.requests, work.expected, strict=True)
    asked = [(policy.question(request), expected) for request, expected in pairs]
    allowed = [question for question, expected in asked if expected]
    denied = [question for question, expected in asked if not expected]
    ids = range(len(allowed))
    return [
        Kind("allow", "allow", allowed, 1.5),
        Kind("deny", "deny", denied, 1.5),
        Kind("fact absent", "deny", [_without_tenant(question) for question in allowed], 3),
        Kind("wrong type", "deny", [_with_tenant(question, 7) for question in allowed], 3),
        Kind("not ASCII", "deny", [_with_tenant(question, "tö") for question in allowed], 3),
        Kind("fact pending", "deny", [_pending(question) for question in allowed], 3),
        Kind("decimal", "allow", [_pay(number, Decimal(f"{number % LARGE_AMOUNT}.5")) for number in ids], 3),
        Kind("deny with message", "deny", [_pay(number, MOST_AMOUNT + 1 + number) for number in ids], 3),
        Kind("obligations", "allow", [_traced(number) for number in ids], 3),
        Kind("confirm", "confirm", [_pay(number, LARGE_AMOUNT + 1 + number) for number in ids], 4, 8),
        Kind("throttle", "throttle", [_payer("GET", f"/v1/full/{number}", "read:full") for number in ids], 4, 8),
        Kind("rate charged", "allow", [_limited(number) for number in ids]),
        Kind("rate peeked at", "allow", [_limited(number) for number in ids], 4, 8, evaluates=True),
        *(
            Kind(f"chain of {hops}", "allow", [_chain(number, hops) for number in ids], most, is_short=hops <= 2)
            for hops, most in zip(HOPS, (2.5, 3, 6, 20), strict=True)
        ),
        Kind("history", "allow", [_payer("GET", f"/v1/reviewed/{number}", "read:reviewed") for number in ids], 4,
             evaluates=True),
        Kind("quantifier over 100", "allow", [_listed(number) for number in ids], 12),
    ]  # fmt: skip


def approved_kinds(confirmed: Kind, engine: Engine) -> list[Kind]:
    """Return the questions of a confirm with a valid approval: evaluated, and decided, which uses the approval up."""
    when = (datetime.now(UTC) - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    ids = count()

    def approve(question: Question) -> Question:
        binding = engine.evaluate(question).remedies[0].binding
        return {**question, "approvals": [{"id": "", "by": "carol", "granted_at": when, "binding": binding}]}

    def with_new_id(question: Question) -> Question:
        question = intern_keys(question)
        question["approvals"][0]["id"] = f"approval-{next(ids)}"
        return question

    approved = replace(confirmed, outcome="allow", questions=[approve(one) for one in confirmed.questions])
    approved = replace(approved, most_ratio=3, most_us=None, prepare=with_new_id)
    return [replace(approved, name=name, evaluates=name == APPROVED[0]) for name in APPROVED]


def _without_tenant(question: Question) -> Question:
    context = {name: value for name, value in question["context"].items() if name != "tenant"}
    return {**question, "context": context}


def _with_tenant(question: Question, tenant: object) -> Question:
    return {**question, "context": {**question["context"], "tenant": tenant}}


def _pending(question: Question) -> Question:
    return _without_tenant(question) | {"pending": ["context.*", "body.*"]}


def _payer(method: str, path: str, scope: str, **context: object) -> Question:
    return {
        "request": {"method": method, "path": path}, "agent": {"id": "payer", "issuer": "idp", "groups": []},
        "credential": {"scopes": [scope]}, "context": context,
    }  # fmt: skip


def _pay(number: int, amount: object) -> Question:
    return _payer("POST", f"/v1/pay/{number}", "create:pay", amount=amount)


def _traced(number: int) -> Question:
    return _payer("POST", f"/v1/traced/{number}", "create:traced", amount=number)


def _limited(number: int) -> Question:
    return _payer("GET", f"/v1/limited/{number}", "read:limited")


def _listed(number: int) -> Question:
    return _payer("POST", f"/v1/listed/{number}", "create:listed", numbers=list(range(number, number + ELEMENTS)))


def _chain(number: int, hops: int) -> Question:
    issued = (datetime.now(UTC) - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "request": {"method": "GET", "path": f"/v1/chain/{number}"},
        "agent": {"id": f"c{LAST}", "issuer": "records", "groups": []},
        "credential": {"scopes": ["read:chain"]},
        "chain": {
            "hops": [
                {"agent": f"c{place}", "issuer": "records", "issued_at": issued, "scopes": ["read:chain"]}
                for place in range(LAST - hops, LAST)
            ]
        },
    }
