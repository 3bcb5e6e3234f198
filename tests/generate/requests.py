"""Questions and entities near the shared vocabulary: known and unknown names; right, wrong and missing values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeAlias

from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision
from policyengine.runtime.decode import from_python
from policyengine.runtime.entities import read_entity_rows
from tests.generate import vocabulary as v
from tests.generate.policies import SCOPES

Question: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[dict[str, Any]]

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
NOWS = (NOW, NOW, datetime(2027, 1, 9, 23, 30, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC))
WRONG: tuple[Any, ...] = (
    True, 7, 7.5, "", "7", "true", [], ["x", 5], {}, {"type": "user", "id": "alice"}, "x" * 70_000, 2**70, 10**40,
    float("nan"), float("inf"), "\ud800", "e\u0301", -1, 900.0, "999h", "10.0.0.999", [None], {"a": {"b": []}},
)  # fmt: skip
LONG = 12_345_678_901_234_567_890  # beyond 64 bits
PATHS = (
    "/health", "/notes", "/notes/7", "/notes/7/", "/notes/a/b", "/v1/invoices", "/v1/invoices/7", "/v1/invoices/8",
    "/v1/invoices/7/refunds", "/v1/invoices/nobody/refunds", "/v1/orgs/north/docs/d1", "/v1/orgs/south/docs/d2",
    "/models/m1:predict", "/ping", "/ping/x", "/elsewhere", "/v1/../notes/7", "/notes//7", "/notes/%37",
    "/NOTES/7", "/v1/Invoices/7", "/V1/invoices/8/REFUNDS", "/Models/M1:Predict", "/v1/ınvoıces/7", "/Health",
    "/v1/INVOICES", "/v1/others", "/v1/INVOICES/7",
)  # fmt: skip
RESPELLED = 0.06
METHODS = ("GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS")
TOOLS = ("billing/refund", "mail/send", "mail/draft", "mail/odd name", "search", "x/y")


# ── The directory ─────────────────────────────────────────────────────────────────────────────


def rows(random: Random, known: float = 0.9) -> Rows:
    """Return the entity rows: most entities, most attributes, sometimes a value of a wrong type. `known` is the
    probability that a row or an attribute exists: with 1.0 all exist, with the right types; with 0.0 none."""
    found: Rows = []
    for kind, names in (("team", v.TEAMS), ("user", v.USERS), ("folder", v.FOLDERS), ("invoice", v.INVOICES),
                        ("doc", v.DOCS), ("org", v.ORGS), ("agent", v.AGENTS), ("tool", TOOLS)):  # fmt: skip
        found += [_row(random, kind, name, known) for name in names if random.random() < known]
    return found


def directory(given: Rows) -> EntityStore:
    raw = from_python(given)
    return EntityStore(read_entity_rows(raw, "entities"), loaded=bool(given))


def _row(random: Random, kind: str, name: str, known: float) -> dict[str, Any]:
    right = 1.0 if known == 1.0 else 0.93
    attributes = {
        key: _value(random, wanted, right) for key, wanted in _ATTRIBUTES[kind].items() if random.random() < known
    }
    above = {"user": "team", "team": "team", "folder": "folder", "invoice": "folder", "doc": "folder"}.get(kind)
    pool = {"team": v.TEAMS, "folder": v.FOLDERS}.get(above or "", ())
    parents = [{"type": above, "id": one} for one in pool if random.random() < 0.4]
    partial = {"partial": True} if known < 1.0 and random.random() < 0.05 else {}
    return {"type": kind, "id": name, "attributes": attributes, "in": parents, **partial}


_ATTRIBUTES: dict[str, dict[str, str]] = {
    "team": {"lead": "user", "labels": "strings"},
    "user": {
        "roles": "roles", "tenant": "tenant", "plan": "plan", "plans": "plans", "manager": "user", "age": "int",
        "score": "number", "suspended": "bool", "since": "time", "address": "address", "net": "cidr",
        "quota": "duration",
    },
    "folder": {"editors": "members", "labels": "strings", "owner": "user"},
    "invoice": {
        "tenant": "tenant", "owner": "user", "approvers": "members", "total": "number", "tags": "strings",
        "locked": "bool", "due": "time",
    },
    "doc": {"home": "folder", "editors": "members", "labels": "strings"},
    "org": {"plan": "plan", "admins": "users"},
    "agent": {"tier": "int", "home": "team"},
    "tool": {"risk": "number", "owner": "team", "limit": "int"},
}  # fmt: skip


# ── Values ────────────────────────────────────────────────────────────────────────────────────


def _value(random: Random, kind: str, right: float) -> Any:
    if random.random() >= right:
        return deepcopy(random.choice(WRONG))
    return VALUES[kind](random)


def ago(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat()


def _one(*items: Any) -> Callable[[Random], Any]:
    return lambda random: random.choice(items)


def _several(items: Sequence[Any]) -> Callable[[Random], Any]:
    return lambda random: [item for item in items if random.random() < 0.6]


def _reference(kind: str, names: Sequence[str]) -> Callable[[Random], Any]:
    return _one(*names, *({"type": kind, "id": name} for name in names), "nobody")


def _time(*hours: float) -> Callable[[Random], Any]:
    return lambda random: (NOW + timedelta(hours=random.choice(hours))).isoformat()


MEMBERS = ({"type": "user", "id": "alice"}, {"type": "user", "id": "carol"}, {"type": "team", "id": "legal"})
INVOICE = {"type": "invoice", "id": "7"}
ROW = {"n": 1, "note": "a", "who": "alice"}
AS_NAMES = (*SCOPES, *(f"x:{name}" for name in SCOPES if name != "c.ping"), "ping", "unknown:scope")
VALUES: dict[str, Callable[[Random], Any]] = {
    "host": _one(
        "acme", "acme", "ACME.", "api.acme.example:8443", "API.acme.example", "[::1]:80", "::1", "10.0.0.1", "a@b",
        "bücher.example", "",
    ),
    "bool": _one(True, True, False), "int": _one(0, 1, 2, 500, 10_000),
    "number": _one(0, 0.5, 1, 100, 499.99, 900, LONG),
    "string": _one("acme", "evil", "alice", "bot", "7", "free", "acme-1", "é", ""), "plan": _one(*v.PLANS),
    "kind": _one(*v.KINDS), "duration": _one("0s", "5m", "10m", "1h", "2d"), "past": _time(-0.1, -2, 1),
    "future": _time(0.1, 5), "time": _one("2027-01-04T12:00:00Z", "2026-12-31T23:00:00+02:00", "2028-01-01T00:00:00Z"),
    "ip": _one("10.0.0.1", "8.8.8.8", "::1", "::ffff:10.0.0.1", "2001:db8::1", "2001:db8::2"),
    "cidr": _one("10.0.0.0/8", "2001:db8::/32"),
    "user": _reference("user", v.USERS), "team": _reference("team", v.TEAMS), "folder": _reference("folder", v.FOLDERS),
    "strings": _several(["acme", "clerk", "ops", "7"]), "roles": _several(v.ROLES),
    "tenant": _one("acme", "acme", "evil"),
    "plans": _several(v.PLANS), "cidrs": _several(["10.0.0.0/8", "0.0.0.0/0"]), "members": _several(MEMBERS),
    "users": _several(v.USERS), "numbers": _several([0, 1, 0.5, 100]), "color": _one("red", "green"),
    "rows": _several([ROW, {"n": 100}, {"n": "1", "who": None}]),
    "card": _one({"number": "42", "last": 7}, {"number": "1"}),
    "address": _one({"city": "acme", "zip": "7", "floor": 1}, {"city": "evil"}),
    "tools": _several([*TOOLS, "send", "refund", "*"]),
    "things": _several([*MEMBERS, INVOICE, {**INVOICE, "id": "8"}, {"type": "doc", "id": "d1"}]),
    "invoice id": _one(*v.INVOICES, "nobody"),
    "issuer": _one(*v.ISSUERS), "agent name": _one(*v.AGENTS), "scopes": _several([*AS_NAMES, "everything", "refunds"]),
    "attester": _one("lab", "lab", "notary", "stranger"), "model": _one("m1", "m2", "m3"),
    "hash": _one("sha256:00ff", "x"),
    "environment": _one("tdx", "snp", "none"), "groups": _several(v.GROUPS),
}  # fmt: skip


# ── Questions ─────────────────────────────────────────────────────────────────────────────────


def question(random: Random, right: float = 0.95) -> Question:
    """Return a question in JSON form; `right` is the probability that a given fact has its type."""
    found = _endpoint(random)
    issuer = random.choice(v.ISSUERS)
    found |= _presenter(random, issuer)
    for root, members in v.GIVEN.items():
        if root != "agent" or "agent" in found:
            _give(random, found, root, members, right)
    if "agent" in found:
        _settle(random, found, issuer)
    if random.random() < 0.25:
        found["chain"] = {"hops": [_hop(random, issuer) for _ in range(random.choice([0, 1, 1, 2, 3]))]}
    if random.random() < 0.1:
        found["entities"] = [row for row in rows(random) if random.random() < 0.3]
    if random.random() < 0.15:
        found["options"] = {"obligations_supported": [one for one in v.OBLIGATIONS if random.random() < 0.6]}
    if random.random() < 0.15:
        found["pending"] = random.sample(pendable(found), random.randint(1, 2))
    return found


def _endpoint(random: Random) -> Question:
    match random.choice(["http"] * 7 + ["tool"] * 3 + ["action"]):
        case "http":
            path = random.choice(PATHS)
            to_post = path.lower().endswith(("refunds", ":predict"))
            method = "POST" if to_post and random.random() < 0.8 else random.choice(METHODS)
            path = respelled(random, path) if random.random() < RESPELLED else path
            return {"request": {"method": method, "path": path}}
        case "tool":
            server, slash, name = random.choice(TOOLS).rpartition("/")
            return {"tool": {"server": server, "name": name} if slash else {"name": name}}
        case _:
            kind, name = random.choice([("invoice", "7"), ("invoice", "8"), ("user", "alice"), ("invoice", "nobody")])
            return {"action": {"name": random.choice(["view", "drop"])}, "resource": {"type": kind, "id": name}}


def respelled(random: Random, path: str) -> str:
    """Return the path with some segments in another case."""
    ways = (
        str.upper,
        str.swapcase,
        str.title,
        lambda text: text.replace("i", "ı"),
        lambda text: f"%{ord(text[0]):x}{text[1:]}",
    )
    return "/".join(random.choice(ways)(part) if part and random.random() < 0.5 else part for part in path.split("/"))


def _presenter(random: Random, issuer: str) -> Question:
    user = {"user": {"id": random.choice([*v.USERS, *v.USERS, "nobody", ""])}}
    agent = {"agent": {"id": random.choice([*v.AGENTS, *v.AGENTS, "stranger"]), "issuer": issuer}}
    return random.choice([{**user, **agent}, {**user, **agent}, {**user, **agent}, agent, user, {}])


def _give(random: Random, found: Question, root: str, members: Mapping[str, str], right: float) -> None:
    """Add facts of one root: most are given, rarely as null."""
    given = {
        name: None if random.random() < 0.03 else _value(random, kind, right)
        for name, kind in members.items()
        if random.random() < 0.75
    }
    if given and random.random() < 0.92:
        found[root] = {**given, **found.get(root, {})}
    if root == "request" and random.random() < 0.5:
        found.setdefault("request", {}).update(headers={"X-Trace": "acme"}, query={"page": random.choice(["7", 7])})
    if root == "credential" and random.random() < 0.3:
        found.setdefault("credential", {})["claims"] = {
            "tenant": "acme", "roles": ["clerk"], "plan": "free", "x-age": 7, "score": 0.5,
        }  # fmt: skip


def _settle(random: Random, found: Question, issuer: str) -> None:
    """Make consistent what presenters usually get right: they come from the credential's issuer, which names them."""
    credential = found.setdefault("credential", {})
    if random.random() < 0.9:
        credential["issuer"] = issuer
        credential.pop("subject", None)
    if random.random() < 0.6:
        credential["scopes"] = list(AS_NAMES)


def _hop(random: Random, issuer: str) -> Question:
    found: Question = {
        "agent": random.choice([*v.AGENTS, "stranger", 7]), "issuer": random.choice([issuer, issuer, *v.ISSUERS]),
        "issued_at": VALUES["past"](random), "scopes": list(AS_NAMES), "groups": ["ops"],
    }  # fmt: skip
    return {name: value for name, value in found.items() if random.random() < 0.95}


# Objects of which other members than those that are given may be pending.
OPEN = ("body", "args", "context", "request.headers", "request.query", "credential.claims", "body.nowhere")


def pendable(found: Question) -> list[str]:
    """Return the names of facts that may be pending: they are not given and do not name the endpoint."""
    names = [f"{root}.{name}" for root, members in v.GIVEN.items() for name in members]
    names += ["user.id", "agent.id", "chain.hops", "user.roles", "user.tenant", "invoice.total", "resource.tenant"]
    names += [f"{one}.*" for one in OPEN] * 3
    return [
        name
        for name in names
        if (root := name.partition(".")[0]) != "invoice" and found.get(root, {}).get(name.partition(".")[2]) is None
    ]


def approved(random: Random, asked: Question, decision: Decision, now: datetime = NOW) -> Question:
    """Return the question with approvals for every confirm of the decision, by permitted and other persons."""
    remedies = [remedy for remedy in decision.remedies if remedy.binding is not None]
    aside = Random()  # a separate random source, so that later random choices do not change
    aside.setstate(random.getstate())
    approvals = [
        {
            "id": f"ap-{number}-{by}",
            "by": by,
            "binding": remedy.binding,
            "granted_at": (now - timedelta(minutes=random.choice([1, 5, 5, 20]))).isoformat(),
            **aside.choice([{}, *[{"issuer": one} for one in (*v.ISSUERS, *(remedy.issuers or ()) * 6)]]),
        }
        for number, remedy in enumerate(remedies)
        for by in v.USERS
        if random.random() < 0.9
    ]
    return {**asked, "approvals": approvals}
