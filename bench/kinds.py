"""`kinds`: one decision by kind of question, beside the floor in the same run: chains, confirms, unknown facts.

The floor answers the ordinary requests of the workload meanwhile: it knows no chain, no approval and no third value.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

from bench import policy
from bench.child import Data, in_child
from bench.measure import duel, fresh_questions
from bench.peers.own import FloorPeer
from bench.report import Section, Target
from bench.trial import format_number
from bench.workload import Workload, workload
from policyengine import Engine
from policyengine.stores.memory.store import MemoryStore

Question: TypeAlias = dict[str, Any]
SIZES = (10, 1_000, 10_000)
SECONDS, REQUESTS = 1.5, 300
HOPS = (1, 2, 8, 32)
LAST = max(HOPS)
REVIEWS, ELEMENTS = 100, 100
MORE_POLICY = """
entity user {{ roles: set<string> }}
issuer records {{ url "https://records.example"   records chains }}
scope chain.read as "read:chain" {{ GET /chain/{{id}} }}
scope pay.create as "create:pay" {{ POST /pay/{{id}} }}
scope limited.read as "read:limited" {{ GET /limited/{{id}} }}
scope reviewed.read as "read:reviewed" {{ GET /reviewed/{{id}} }}
scope listed.read as "read:listed" {{ POST /listed/{{id}} }}
{chain}
agent "payer" {{ issued by idp   acts alone   may pay.create, limited.read, reviewed.read, listed.read }}
guard "large payments" on POST /pay/{{id}} {{
  confirm by role finance within 15m when context.amount > 500 message "pay {{context.amount}}"
}}
rate "few" per agent.id on GET /limited/{{id}} {{ 1_000_000/1h }}
guard "reviewed" on GET /reviewed/{{id}} {{ deny when count of GET /reviewed/{{id}} within 1h > 1_000_000 }}
guard "listed" on POST /listed/{{id}} {{ require (all n in context.numbers: n >= 0) }}
"""
# What each kind may cost beside the floor, from the design of the evaluator; None where no target is set.
TARGETS: dict[str, float | None] = {
    "allow": 1.5, "deny": 1.5, "fact absent": 3, "wrong type": 3, "not ASCII": 3, "decimal": 3, "fact pending": 3,
    "confirm": 4, "peek at a rate": 4, "chain of 1": 2.5, "chain of 2": 3, "chain of 8": 6, "chain of 32": 20,
    "history": 4, "quantifier over 100": 12,
}  # fmt: skip


def run(sizes: Sequence[int], say: Callable[[str], None]) -> Section:
    """Every kind at every size; each size in a child of its own."""
    found = []
    for size in sizes:
        say(f"kinds: {size:,} rules")
        found.append(in_child("bench.kinds:measure", 600, {"size": size}))
    return section(found)


def measure(size: int) -> Data:
    """In the child: time each kind by turns with the floor."""
    work = workload(size, requests=REQUESTS)
    engine = Engine.from_text(text(work), store=MemoryStore(history_complete=True))
    floor = FloorPeer(work)
    rows = []
    for kind, (ask, questions) in kinds(engine, work).items():
        expected = [describe(ask(question)) for question in questions[:20]]
        gc.collect()
        same = fresh_questions(floor.question, work.requests[: len(questions)])
        found = duel(ask, fresh_questions(as_it_is, questions), floor.ask, same, SECONDS)
        rows.append(
            {
                "kind": kind, "outcomes": sorted(set(expected)), "p50_us": round(found.ours.p50, 2),
                "p99_us": round(found.ours.p99, 2), "floor_p50_us": round(found.floor.p50, 3),
                "ratio": round(found.ratio, 2), "rounds": found.rounds,
            }
        )  # fmt: skip
    return {"size": size, "kinds": rows}


def as_it_is(question: Question) -> Question:
    return question


def describe(decision: Any) -> str:
    return str(decision.outcome)


def text(work: Workload) -> str:
    """The policy of the workload, and rules for the other kinds in the same policy."""
    chain = "\n".join(link(number) for number in range(LAST + 1))
    facts = "context.risk: int   context.amount: number?   context.numbers: list<int>? }"
    return policy.policy(work).replace("context.risk: int }", facts) + MORE_POLICY.format(chain=chain)


def link(number: int) -> str:
    """An agent of the chain, which may delegate to the next."""
    on = f'   may delegate chain.read to agent "c{number + 1}" for 1h' if number < LAST else ""
    return f'agent "c{number}" {{ issued by records   acts alone   may chain.read{on} }}'


def kinds(engine: Engine, work: Workload) -> dict[str, tuple[Callable[[Any], Any], list[Question]]]:
    """The questions of each kind, and how they are asked."""
    pairs = zip(work.requests, work.expected, strict=True)
    asked = [(policy.question(request), expected) for request, expected in pairs]
    allowed = [question for question, expected in asked if expected]
    questions = {
        "allow": allowed,
        "deny": [question for question, expected in asked if not expected],
        "fact absent": [without_tenant(question) for question in allowed],
        "wrong type": [with_tenant(question, 7) for question in allowed],
        "not ASCII": [with_tenant(question, "tö") for question in allowed],
        "fact pending": [without_tenant(question) | {"pending": ["context.*", "body.*"]} for question in allowed],
        "decimal": [pay(Decimal("12.5"))] * len(allowed),
        "confirm": [pay(900)] * len(allowed),
        **{f"chain of {hops}": [chain(hops)] * len(allowed) for hops in HOPS},
        "history": [payer("GET", "/reviewed/7", "read:reviewed")] * len(allowed),
        "quantifier over 100": [listed()] * len(allowed),
    }
    found: dict[str, tuple[Callable[[Any], Any], list[Question]]] = {
        kind: (engine.decide, several) for kind, several in questions.items()
    }
    for _ in range(REVIEWS):
        engine.decide(payer("GET", "/reviewed/7", "read:reviewed"))
    found["history"] = engine.evaluate, questions["history"]
    found["peek at a rate"] = (
        engine.evaluate,
        [payer("GET", "/limited/7", "read:limited")] * len(allowed),
    )
    return found


def without_tenant(question: Question) -> Question:
    context = {name: value for name, value in question["context"].items() if name != "tenant"}
    return {**question, "context": context}


def with_tenant(question: Question, tenant: object) -> Question:
    return {**question, "context": {**question["context"], "tenant": tenant}}


def payer(method: str, path: str, scope: str, **context: object) -> Question:
    return {
        "request": {"method": method, "path": path}, "agent": {"id": "payer", "issuer": "idp", "groups": []},
        "credential": {"scopes": [scope]}, "context": context,
    }  # fmt: skip


def pay(amount: object) -> Question:
    return payer("POST", "/pay/7", "create:pay", amount=amount)


def listed() -> Question:
    return payer("POST", "/listed/7", "read:listed", numbers=list(range(ELEMENTS)))


def chain(hops: int) -> Question:
    issued = (datetime.now(UTC) - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    first = LAST - hops
    return {
        "request": {"method": "GET", "path": "/chain/7"},
        "agent": {"id": f"c{LAST}", "issuer": "records", "groups": []},
        "credential": {"scopes": ["read:chain"]},
        "chain": {
            "hops": [
                {
                    "agent": f"c{number}",
                    "issuer": "records",
                    "issued_at": issued,
                    "scopes": ["read:chain"],
                }
                for number in range(first, LAST)
            ]
        },
    }


def section(found: Sequence[Data]) -> Section:
    sizes = [one["size"] for one in found]
    cells = {(row["kind"], one["size"]): row for one in found for row in one["kinds"]}
    names = list(dict.fromkeys(kind for kind, _ in cells))
    rows = [
        (
            kind,
            ", ".join(cells[kind, sizes[0]]["outcomes"]),
            *(cell(cells[kind, one]) for one in sizes),
        )
        for kind in names
    ]
    return Section(
        name="kinds",
        title="One decision by kind of question: p50 / p99 in µs, and p50 as a multiple of the floor's",
        columns=("kind", "outcome", *(f"{size:,} rules" for size in sizes)),
        rows=tuple(rows),
        data=tuple(found),
        targets=tuple(
            Target(
                f"{kind}, at the worst size",
                limit,
                max(cells[kind, one]["ratio"] for one in sizes),
            )
            for kind in names
            if (limit := TARGETS.get(kind)) is not None
        ),
        notes=("The floor answers the ordinary requests of the workload by turns with each kind.",),
    )


def cell(row: Data) -> str:
    return f"{format_number(row['p50_us'])} / {format_number(row['p99_us'])} ({format_number(row['ratio'])}×)"
