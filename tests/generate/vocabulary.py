"""The vocabulary that generated policies and requests share: names, types, facts by type, literals and raw values."""

from __future__ import annotations

from dataclasses import dataclass

from policyengine.typesystem import EnumType, ListType, RecordType, Scalar, SetType, Type
from policyengine.vocabulary import FACTS, REQUEST_MEMBERS, BuiltInFact, FactOrigin

USERS = ("alice", "bob", "carol")
TEAMS = ("legal", "sales", "all")
AGENTS = ("bot", "planner", "reader")
AGENT_GLOBS = ("b*", "*er")
GROUPS = ("ops", "night")
INVOICES, FOLDERS, DOCS, ORGS = ("7", "8"), ("a", "b", "c"), ("d1", "d2"), ("north", "south")
ROLES = ("clerk", "finance", "boss")
TENANTS = ("acme", "evil")
PLANS = ("free", "basic", "enterprise")
KINDS = ("jwt", "mtls", "api_key")
MODELS = ("m1", "m2")
OBLIGATIONS = ("redact", "step_up", "header", "warn", "audit", "notify")
ISSUERS = ("acme", "plain", "open", "partner")


@dataclass(frozen=True, slots=True)
class Atom:
    """An independent expression: `roots` are the facts that it reads, `optional` whether it may be absent."""

    text: str
    roots: frozenset[str]
    optional: bool = False


def _atoms(rows: str) -> dict[str, tuple[Atom, ...]]:
    """Parse lines of the form `type: fact fact? …`."""
    found: dict[str, tuple[Atom, ...]] = {}
    for row in rows.strip().splitlines():
        kind, _, facts = row.strip().partition(": ")
        found[kind] = found.get(kind, ()) + tuple(
            Atom(fact.removesuffix("?"), frozenset({fact.partition(".")[0].partition("[")[0]}), fact.endswith("?"))
            for fact in facts.split()
        )
    return found


# Of built-in facts whose values come from a pool of their own, whatever their type.
POOLS = {
    "credential.issuer": "issuer", "credential.subject": "agent name", "credential.scopes": "scopes",
    "credential.issued_at": "past", "credential.expires_at": "future", "attestation.issued_at": "past",
    "attestation.by": "attester", "attestation.model": "model", "attestation.model_hash": "hash",
    "attestation.environment": "environment", "task.issued_at": "past", "task.tools": "tools",
    "task.entities": "things", "request.host": "host", "agent.groups": "groups",
}  # fmt: skip


def kind_of(type_: Type) -> str:
    """Return the kind under which the expression writer lists a type."""
    match type_:
        case Scalar():
            return str(type_)
        case EnumType():
            return "kind"
        case SetType(element) if element != Scalar.STRING:
            return "things"
        case ListType(RecordType()):
            return "hops"
        case _:
            return "strings"


def _is_readable(fact: BuiltInFact) -> bool:
    """Return whether conditions may read the fact anywhere without displacing other tests."""
    elsewhere = fact.path[0] == "tool" or fact.path == ("chain", "agents")
    return not elsewhere and (fact.origin is not FactOrigin.ENGINE or fact.path == ("time",))


def _built_in_atoms() -> str:
    """Return a line for each built-in fact, by type."""
    own = {"request.host": "host"}
    return "\n".join(
        f"{own.get(fact.name, kind_of(fact.type))}: {fact.name}{'?' * fact.optional}"
        for fact in FACTS
        if _is_readable(fact)
    )


def _given_built_in() -> dict[str, dict[str, str]]:
    """Return by root what a request may give of built-in facts; presenter and endpoint are given separately."""
    apart = {"agent.id", "agent.issuer", "user.id", "chain.hops"}
    types = {
        fact.name: fact.type for fact in FACTS
        if fact.is_member and fact.origin is not FactOrigin.ENDPOINT and fact.name not in apart
        if fact.path[0] != "tool"  # only requests for tools may have it: tests/tool_pins/test_facts.py
    } | {
        ".".join(member.path): member.type for member in REQUEST_MEMBERS
        if member.type is not None and member.path[0] in ("credential", "attestation", "task")
        and member.path[1] not in ("fingerprint", "refused")
    }  # fmt: skip
    found: dict[str, dict[str, str]] = {}
    for name, type_ in types.items():
        root, _, member = name.partition(".")
        found.setdefault(root, {})[member] = POOLS.get(name, kind_of(type_))
    return found


# Facts that exist at every place, by the type names of the expression writer.
EVERYWHERE = _atoms(
    """
    bool: user.suspended context.flag
    int: user.age? agent.tier?
    number: user.score context.risk? user.address.floor? context.number?
    string: user.tenant request.headers["x-trace"]? request.query["page"]?
    string: context.zone? user.address.city user.address.zip? user.manager.tenant
    plan: user.plan context.level?
    duration: user.quota? context.wait?
    time: user.since? context.moment? context.time?
    ip: context.ip?
    cidr: user.net?
    user: user user.manager? context.person?
    team: agent.home? context.home?
    strings: user.roles context.tags?
    plans: user.plans?
    cidrs: context.nets?
    members: context.people?
    numbers: context.samples?
    rows: context.rows?
    """
    + _built_in_atoms()
)

# Facts that exist at some places only, by the name of their group.
GROUPS_OF_FACTS: dict[str, dict[str, tuple[Atom, ...]]] = {
    "invoice": _atoms(
        """
        invoice: resource
        string: resource.tenant resource.id resource.owner.tenant
        number: resource.total?
        user: resource.owner
        members: resource.approvers
        strings: resource.tags?
        bool: resource.locked
        time: resource.due?
        """
    ),
    "refund": _atoms(
        """
        string: body.note? body.card.number
        int: body.count
        bool: body.urgent?
        plan: body.plan?
        ip: body.source?
        duration: body.wait?
        time: body.due?
        user: body.recipient?
        numbers: body.parts?
        strings: body.tags?
        rows: body.rows?
        int: body.card.last?
        """
    ),
    "amount": _atoms("number: body.amount"),
    "tool": _atoms(
        """
        tool: tool
        string: tool.name tool.server? args.invoice
        int: tool.limit?
        number: args.amount tool.risk
        team: tool.owner?
        """
    ),
    "mail": _atoms(
        """
        tool: tool
        string: tool.name tool.server? args.content_type? args.to?
        int: tool.limit?
        strings: args.cc?
        number: tool.risk
        team: tool.owner?
        """
    ),
    "doc": _atoms(
        """
        doc: resource
        folder: resource.home?
        members: resource.editors
        strings: resource.labels
        org: params.org
        plan: params.org.plan
        string: params.org.id
        """
    ),
    "model": _atoms("string: params.name"),
    "captured": _atoms(
        """
        invoice: params.id
        string: params.id.id params.id.tenant
        """
    ),
}
DEFINED = {  # name of a `define`: what it may read
    "calm": frozenset({"context", "time"}),
    "peer": frozenset({"user", "context"}),
    "proven": frozenset({"credential", "attestation", "request"}),
}

LITERALS: dict[str, tuple[str, ...]] = {
    "bool": ("true", "false"),
    "int": ("0", "1", "2", "500", "10_000"),
    "number": ("0.5", "1", "100", "499.99", "0", "some_limit", "12_345_678_901_234_567_890"),
    "string": ('""', '"acme"', '"evil"', '"alice"', '"bot"', '"free"', '"7"', '"legal"', '"é"', '"GET"', '"acme-1"'),
    "host": ('"acme"', '"api.acme.example"', '"::1"', '"10.0.0.1"', "agent.id", "user.tenant"),
    "plan": PLANS,
    "kind": KINDS,
    "duration": ("0s", "1ms", "5m", "1h", "1h30m", "1d"),
    "time": ("2027-01-04", "2027-01-04T12:00:00Z", "2026-12-31T23:00:00+02:00", "2028-01-01"),
    "ip": ("10.0.0.1", "8.8.8.8", "::1", "2001:db8::1"),
    "cidr": ("10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32"),
    "user": (*(f'user "{name}"' for name in USERS), "the_boss"),
    "team": tuple(f'team "{name}"' for name in TEAMS),
    "folder": tuple(f'folder "{name}"' for name in FOLDERS),
    "invoice": tuple(f'invoice "{name}"' for name in INVOICES),
    "doc": tuple(f'doc "{name}"' for name in DOCS),
    "org": tuple(f'org "{name}"' for name in ORGS),
    "tool": ('tool "mail/send"', 'tool "billing/refund"'),
}  # fmt: skip
WINDOWS = (
    'mon..fri 08:00..18:00 "Europe/Berlin"',
    'sat..sun "UTC"',
    'fri 16:00..mon 08:00 "America/New_York"',
    '12:00..13:00 "UTC"',
    'mon 22:00..06:00 "Asia/Tokyo"',
    '2026-12-24..2027-01-05 "UTC"',
)
GLOBS = ('"a*"', '"*e"', '"*"', '"acme*1"', '"bot"')
REGEXES = ('"[a-z]+"', '"acme(-[0-9]+)?"', '".*"', '"(alice|bob)"', '"[^/]{0,5}"')

ENTITIES = """
enum plan = free < basic < enterprise
enum color = red < green
entity team { lead: user?   labels: set<string> inherited } in team
entity user {
  roles: set<string>   tenant: string   plan: plan   plans: set<plan>?   manager: user?   age: int?   score: number
  suspended: bool   since: time?   address: { city: string   zip: string?   floor: number? }   net: cidr?
  quota: duration?
} in team
entity folder { editors: set<user or team> inherited else []   labels: set<string> inherited   owner: user? } in folder
entity invoice {
  tenant: string   owner: user   approvers: set<user or team> inherited   total: number?   tags: set<string>?
  locked: bool   due: time?
} in folder
entity doc { home: folder?   editors: set<user or team> inherited   labels: set<string> inherited else [] } in folder
entity org { plan: plan   admins: set<user> }
entity agent { tier: int?   home: team? }
entity tool { risk: number   owner: team?   limit: int? }
facts {
  context.flag: bool   context.risk: number?   context.zone: string?   context.level: plan?   context.wait: duration?
  context.moment: time?   context.person: user?   context.home: team?   context.tags: set<string>?
  context.nets: set<cidr>?   context.people: set<user or team>?   context.samples: list<number>?
  context.rows: list<{ n: number   note: string?   who: user? }>?   context.color: color?
  context.ip: ip?   context.time: time?   context.number: number?
}
facts on refunds { body.amount: number }
facts on POST /v1/invoices/{id: invoice}/refunds {
  body.note: string?   body.count: int   body.urgent: bool?   body.plan: plan?   body.source: ip?
  body.wait: duration?   body.due: time?   body.recipient: user?   body.parts: list<number>?   body.tags: set<string>?
  body.card: { number: string   last: int? }   body.rows: list<{ n: number   note: string?   who: user? }>?
}
facts on TOOL billing/refund { args.invoice: string   args.amount: number }
facts on TOOL mail/* { args.to: string?   args.cc: set<string>?   args.content_type: string? }
let some_limit = 250
let internal = [10.0.0.0/8, 192.168.0.0/16]
let the_boss = user "bob"
""".strip()

# The type of every fact that a request may give, to generate values: `context.rows` and so on.
GIVEN: dict[str, dict[str, str]] = {
    "context": {
        "flag": "bool", "risk": "number", "zone": "string", "level": "plan", "wait": "duration", "moment": "time",
        "person": "user", "home": "team", "tags": "strings", "nets": "cidrs", "people": "members",
        "samples": "numbers", "rows": "rows", "color": "color", "ip": "ip", "time": "time", "number": "number",
    },
    "body": {
        "amount": "number", "note": "string", "count": "int", "urgent": "bool", "plan": "plan", "source": "ip",
        "wait": "duration", "due": "time", "recipient": "user", "parts": "numbers", "tags": "strings", "rows": "rows",
        "card": "card",
    },
    "args": {"invoice": "invoice id", "amount": "number", "to": "string", "cc": "strings", "content_type": "string"},
    **_given_built_in(),
}  # fmt: skip
