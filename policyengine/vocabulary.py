"""Built-in facts, functions, words of levels: one table for checker, evaluator, editor and documentation."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from policyengine.typesystem import EnumType, FieldType, ListType, RecordType, RefType, Scalar, SetType, Type


class FactOrigin(StrEnum):
    """Who says so: the caller's own request, its endpoint, a verified credential, the chain of hops, or the engine."""

    REQUEST = "request"
    ENDPOINT = "endpoint"
    CREDENTIAL = "credential"
    CHAIN = "chain"  # follows from `chain.hops`
    ENGINE = "engine"

    @property
    def is_derived(self) -> bool:
        """Whether no member of a request is the fact: it follows from others, or the engine knows it."""
        return self in (FactOrigin.CHAIN, FactOrigin.ENGINE)


@dataclass(frozen=True, slots=True)
class BuiltInFact:
    """A fact that every policy knows: one row, from which requests, OpenAPI models, tests and documentation derive.

    `later` names the capability that it waits for: until then it is `NEUTRAL_VALUES`. An entity may declare an
    attribute in place of one that is `declarable`. No test can show a fact unknown that is `always_known`.
    """

    path: tuple[str, ...]
    type: Type
    doc: str
    origin: FactOrigin = FactOrigin.REQUEST
    optional: bool = False
    volatile: bool = False  # changes from moment to moment: an approval is not bound to it
    later: str | None = None
    declarable: bool = False
    always_known: bool = False

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def is_member(self) -> bool:
        """Whether a request has it as a member of its own."""
        return self.later is None and not self.origin.is_derived


@dataclass(frozen=True, slots=True)
class RequestMember:
    """A member of requests that no policy reads as it stands. `type` None: an object whose members have any name."""

    path: tuple[str, ...]
    type: Type | None
    required: bool = False
    in_tests: bool = True  # whether a test may give it


CREDENTIAL_KIND = EnumType(
    "credential kind",
    ("jwt", "mtls", "opaque", "dpop", "spiffe", "txn_token", "id_jag", "signature", "api_key", "basic", "session"),
    ordered=False,
)
STRINGS = SetType(Scalar.STRING)
ENTITIES = SetType(RefType(frozenset()))  # of whichever types a policy has: there it has all of them
HOP = RecordType(  # without `groups`, which only blocks for agents ask for
    (
        FieldType("agent", Scalar.STRING),
        FieldType("issuer", Scalar.STRING),
        FieldType("issued_at", Scalar.TIME, optional=True),
        FieldType("scopes", STRINGS, optional=True),
    )
)


def _define_facts(
    root: str, origin: FactOrigin, rows: list[tuple[str, Type, str]], optional: str = "", volatile: str = "",
    later: str | None = None, declarable: str = "", always_known: str = "",
) -> tuple[BuiltInFact, ...]:  # fmt: skip
    def columns(name: str) -> dict[str, bool]:
        named = {
            "optional": optional, "volatile": volatile, "declarable": declarable, "always_known": always_known,
        }  # fmt: skip
        return {column: name in names.split() for column, names in named.items()}

    return tuple(
        BuiltInFact((root, name), type_, doc, origin, later=later, **columns(name)) for name, type_, doc in rows
    )


_S, _N, _B, _D = Scalar.STRING, Scalar.NUMBER, Scalar.BOOL, Scalar.DURATION

FACTS: tuple[BuiltInFact, ...] = (
    *_define_facts("agent", FactOrigin.CREDENTIAL, [
        ("id", _S, "the presenting agent's name at its issuer"),
        ("issuer", _S, "the issuer, as the policy names it"),
        ("instance", _S, "which running copy of the agent"),
        ("groups", STRINGS, "groups the issuer puts the agent in"),
        ("publisher", _S, "who publishes the agent"),
        ("model", _S, "the model it says it runs"),
    ], optional="instance groups publisher model", declarable="publisher model"),
    *_define_facts("user", FactOrigin.CREDENTIAL, [("id", _S, "the person the agent acts for, or who calls")]),
    *_define_facts("credential", FactOrigin.CREDENTIAL, [
        ("kind", CREDENTIAL_KIND, "what was presented"),
        ("issuer", _S, "who issued it, as the policy names it"),
        ("subject", _S, "whom it names"),
        ("scopes", STRINGS, "the scopes it carries"),
        ("lifetime", _D, "from issue to expiry"),
        ("age", _D, "since issue"),
        ("bound", _B, "whether the caller proved possession of its key"),
        ("shared", _B, "whether it, or its key, was seen elsewhere or with another agent lately"),
    ], optional="subject scopes", volatile="age"),
    *_define_facts("task", FactOrigin.CREDENTIAL, [
        ("id", _S, "the task the agent was started for"),
        ("tools", STRINGS, "the tools the task may use, as `server/name`, or as `name` at any server"),
        ("entities", ENTITIES, "the things the task is about"),
        ("age", _D, "since the task began"),
    ], optional="id tools entities age", volatile="age"),
    *_define_facts("attestation", FactOrigin.CREDENTIAL, [
        ("verified", _B, "whether an attestation was checked and holds"),
        ("by", _S, "the attester, as the policy names it"),
        ("model", _S, "the attested model"),
        ("model_hash", _S, "its hash, `sha256:…`"),
        ("environment", _S, "where it runs: `sev-snp`, `tdx` …"),
        ("age", _D, "since the attestation was made"),
    ], optional="by model model_hash environment age", volatile="age"),
    *_define_facts("chain", FactOrigin.CHAIN, [
        ("depth", Scalar.INT, "how many agents handed the work on; unknown unless the issuer `records chains`"),
        ("root", _S, "the first agent of the chain; the presenter itself when alone"),
        ("agents", ListType(_S), "all agents, first to last"),
    ]),
    *_define_facts("chain", FactOrigin.CREDENTIAL, [
        ("hops", ListType(HOP), "the hops before the presenter"),
    ]),
    *_define_facts("request", FactOrigin.ENDPOINT, [
        ("method", _S, "HTTP method; HEAD reads as GET"),
        ("path", _S, "the canonical path"),
    ], optional="method path"),
    *_define_facts("request", FactOrigin.REQUEST, [
        ("host", _S, "the host asked for, without port and final dot, in lower case"),
        ("ip", Scalar.IP, "where the request came from"),
        ("size", Scalar.INT, "bytes in the body"),
    ], optional="host ip size"),
    *_define_facts("tool", FactOrigin.ENDPOINT, [
        ("name", _S, "the tool called"),
        ("server", _S, "the server that offers it"),
    ], optional="server"),
    BuiltInFact(
        ("time",), Scalar.TIME, "the moment of the decision", FactOrigin.ENGINE, volatile=True, always_known=True
    ),
    *_define_facts("approval", FactOrigin.ENGINE, [
        ("granted", _B, "whether a confirm that covers this request has its approval; false without one"),
        ("by", _S, "who approved"),
        ("age", _D, "since the approval was granted"),
    ], optional="by age", volatile="granted by age", always_known="granted"),
    *_define_facts("behavior", FactOrigin.ENGINE, [
        ("trust", _N, "slow to rise, fast to fall, 0 … 1; 0.5 until it is known"),
        ("burst", _B, "arrivals far above the caller's own rate"),
        ("novelty", _N, "share of recent requests of a kind not seen before, 0 … 1"),
        ("deviation", _N, "how surprising the last requests are, 0 … 1"),
        ("error_rate", _N, "recent failures, 0 … 1"),
        ("sequence", _B, "whether the declared profile is followed; true until it is known"),
        ("ready", _B, "whether enough was seen to judge"),
    ], volatile="trust burst novelty deviation error_rate sequence ready", later="learned facts"),
    *_define_facts("cluster", FactOrigin.ENGINE, [
        ("id", _S, "the group of keys that move in lock-step; oneself when alone"),
        ("size", Scalar.INT, "how many keys are in it"),
    ], volatile="id size", later="clusters"),
)  # fmt: skip

# What nobody has learned yet, as it is for everybody; `cluster.id` is oneself.
NEUTRAL_VALUES: dict[tuple[str, ...], object] = {
    ("behavior", "trust"): Decimal("0.5"), ("behavior", "burst"): False, ("behavior", "novelty"): 0,
    ("behavior", "deviation"): 0, ("behavior", "error_rate"): 0, ("behavior", "sequence"): True,
    ("behavior", "ready"): False, ("cluster", "size"): 1,
}  # fmt: skip

# Roots with free members: what stands under them is a string, or declared by `facts`.
OPEN_ROOTS = {
    "body": "the request's body; members are declared by `facts`",
    "args": "a tool's arguments; members are declared by `facts`",
    "context": "what the gateway adds; members are declared by `facts`",
    "params": "captures of the path, `{id}`: strings, or references when typed `{id: invoice}`",
}
STRING_MAPS = {
    ("request", "headers"): 'HTTP headers, names in lower case, in brackets: `request.headers["x-id"]`',
    ("request", "query"): 'query parameters, in brackets: `request.query["page"]`',
}
REQUEST_MEMBERS: tuple[RequestMember, ...] = (
    RequestMember(("action", "name"), _S, required=True, in_tests=False),
    RequestMember(("resource", "type"), _S, required=True),
    RequestMember(("resource", "id"), _S, required=True),
    *(RequestMember(path, None) for path in STRING_MAPS),
    # Times on the wire that policies see as ages.
    *(RequestMember((root, "issued_at"), Scalar.TIME) for root in ("credential", "attestation", "task")),
    RequestMember(("credential", "expires_at"), Scalar.TIME),
    RequestMember(("credential", "claims"), None),
    RequestMember(("credential", "fingerprint"), _S, in_tests=False),
    RequestMember(("credential", "refused"), _S),  # why it was refused
)
HOP_MEMBERS: dict[str, Type] = {**{field.name: field.type for field in HOP.fields}, "groups": STRINGS}
ENTITY_ROOTS = ("user", "agent", "tool", "resource")
BUILT_IN_FACTS: dict[tuple[str, ...], BuiltInFact] = {fact.path: fact for fact in FACTS}
# The roots of what a credential proves, and those whose facts a test gives together: `given task { … }`.
CREDENTIAL_ROOTS = tuple(
    dict.fromkeys(fact.path[0] for fact in FACTS if fact.is_member and fact.origin is FactOrigin.CREDENTIAL)
)
GROUPED_ROOTS = tuple(
    dict.fromkeys(
        fact.path[0] for fact in FACTS
        if fact.is_member and fact.origin is not FactOrigin.ENDPOINT and fact.path[0] not in (*ENTITY_ROOTS, "chain")
    )
)  # fmt: skip
FACT_ROOT_NAMES = frozenset({fact.path[0] for fact in FACTS} | set(OPEN_ROOTS) | set(ENTITY_ROOTS))


def _members_by_root() -> dict[str, tuple[str, ...] | None]:
    found: dict[str, tuple[str, ...] | None] = {}
    for path in (*(fact.path for fact in FACTS if fact.is_member), *(member.path for member in REQUEST_MEMBERS)):
        found[path[0]] = (*(found.get(path[0]) or ()), path[1])
    return {**found, **{root: None for root in OPEN_ROOTS if root != "params"}}


# The roots of facts in a request with their members; None is free. `user.roles` and the like are no members on purpose.
ROOTS = _members_by_root()
SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "dpop", "txn-token"}
)


@dataclass(frozen=True, slots=True)
class BuiltInFunction:
    """A function: what it takes (`any` of the scalars or collections named), what it gives, what it means."""

    name: str
    parameters: tuple[tuple[str, Type | str], ...]
    result: Type | str
    doc: str
    example: str
    total: bool = False  # answers whatever it is given; the others do not know some hosts, addresses or numbers


_TEXT, _NUMERIC = ("text", _S), "number or duration"
FUNCTIONS: tuple[BuiltInFunction, ...] = (
    BuiltInFunction("lower", (_TEXT,), _S, "the text in lower case", 'lower("ABC") == "abc"', total=True),
    BuiltInFunction("upper", (_TEXT,), _S, "the text in upper case", 'upper("abc") == "ABC"', total=True),
    BuiltInFunction(
        "starts_with", (_TEXT, ("prefix", _S)), _B, "whether the text begins so", 'starts_with("abc", "a")', total=True
    ),
    BuiltInFunction(
        "ends_with", (_TEXT, ("suffix", _S)), _B, "whether the text ends so", 'ends_with("abc", "c")', total=True
    ),
    BuiltInFunction(
        "contains", (_TEXT, ("part", _S)), _B, "whether the part is in the text", 'contains("abc", "b")', total=True
    ),
    BuiltInFunction(
        "size",
        (("value", "text or collection"),),
        Scalar.INT,
        "characters of a text, elements of a set or list",
        "size([1, 2]) == 2",
        total=True,
    ),
    BuiltInFunction(
        "host",
        (("url", _S),),
        _S,
        "the host of an absolute URL, as `request.host` would be; unknown for anything else",
        'host("https://API.example/x") == "api.example"',
    ),
    BuiltInFunction(
        "domain",
        (("address", _S),),
        _S,
        "what stands after the `@` of a mail address, in lower case",
        'domain("a@Acme.example") == "acme.example"',
    ),
    BuiltInFunction(
        "address",
        (("ip", Scalar.IP),),
        Scalar.IP,
        "the whole address, where `per request.ip` counts the /64 of an IPv6 one",
        "address(10.0.0.1) == 10.0.0.1",
        total=True,
    ),
    BuiltInFunction(
        "bucket",
        (_TEXT, ("buckets", Scalar.INT)),
        Scalar.INT,
        "a stable bucket from 0 to buckets - 1, for gradual roll-outs",
        'bucket("alice", 1) == 0',
    ),
    BuiltInFunction("min", (("a", _NUMERIC), ("b", "same")), "same", "the smaller", "min(1, 2) == 1"),
    BuiltInFunction("max", (("a", _NUMERIC), ("b", "same")), "same", "the larger", "max(1, 2) == 2"),
    BuiltInFunction("abs", (("a", _NUMERIC),), "same", "without its sign", "abs(-1) == 1"),
)

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
AUDIT_LEVELS = ("none", "brief", "full")
USER = RefType(frozenset({"user"}))
