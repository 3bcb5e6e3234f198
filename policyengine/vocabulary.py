"""Built-in facts and functions of the language: one table for the checker, the evaluator, the editor and the docs."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from policyengine.typesystem import EnumType, FieldType, ListType, RecordType, RefType, Scalar, SetType, Type


class FactOrigin(StrEnum):
    """The origin of a fact: the caller's request, the endpoint of the request, a verified credential, the chain of
    hops, or the engine.
    """

    REQUEST = "request"
    ENDPOINT = "endpoint"
    CREDENTIAL = "credential"
    CHAIN = "chain"  # derived from `chain.hops`
    ENGINE = "engine"

    @property
    def is_derived(self) -> bool:
        """Whether the fact is not a member of requests, because it is derived from other facts or the engine provides
        it.
        """
        return self in (FactOrigin.CHAIN, FactOrigin.ENGINE)


@dataclass(frozen=True, slots=True)
class BuiltInFact:
    """A built-in fact: a row from which request members, OpenAPI models, tests and documentation are derived.

    An entity may declare an attribute with the name of a `declarable` fact. A test cannot make an `always_known` fact
    unknown.
    """

    path: tuple[str, ...]
    type: Type
    doc: str
    origin: FactOrigin = FactOrigin.REQUEST
    optional: bool = False
    volatile: bool = False  # whether it changes over time, so that approvals are not bound to it
    declarable: bool = False
    always_known: bool = False

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def is_member(self) -> bool:
        """Whether requests have a member for the fact."""
        return not self.origin.is_derived


@dataclass(frozen=True, slots=True)
class RequestMember:
    """A member of requests that policies do not read directly. If `type` is None, it is an object with members of any
    name.
    """

    path: tuple[str, ...]
    type: Type | None
    required: bool = False
    in_tests: bool = True  # whether tests may set it


CREDENTIAL_KIND = EnumType(
    "credential kind",
    ("jwt", "mtls", "opaque", "dpop", "spiffe", "txn_token", "id_jag", "signature", "api_key", "basic", "session"),
    ordered=False,
)
STRINGS = SetType(Scalar.STRING)
ENTITIES = SetType(RefType(frozenset()))  # references to all entity types of the policy
HOP = RecordType(  # without `groups`, which only agent blocks read
    (
        FieldType("agent", Scalar.STRING),
        FieldType("issuer", Scalar.STRING),
        FieldType("issued_at", Scalar.TIME, optional=True),
        FieldType("scopes", STRINGS, optional=True),
    )
)


def _define_facts(
    root: str, origin: FactOrigin, rows: list[tuple[str, Type, str]], optional: str = "", volatile: str = "",
    declarable: str = "", always_known: str = "",
) -> tuple[BuiltInFact, ...]:  # fmt: skip
    def columns(name: str) -> dict[str, bool]:
        named = {
            "optional": optional, "volatile": volatile, "declarable": declarable, "always_known": always_known,
        }  # fmt: skip
        return {column: name in names.split() for column, names in named.items()}

    return tuple(BuiltInFact((root, name), type_, doc, origin, **columns(name)) for name, type_, doc in rows)


_S, _N, _B, _D = Scalar.STRING, Scalar.NUMBER, Scalar.BOOL, Scalar.DURATION

FACTS: tuple[BuiltInFact, ...] = (
    *_define_facts("agent", FactOrigin.CREDENTIAL, [
        ("id", _S, "the presenting agent's name at its issuer"),
        ("issuer", _S, "the issuer, as the policy names it"),
        ("instance", _S, "the running instance of the agent"),
        ("groups", STRINGS, "the groups to which the issuer assigns the agent"),
        ("publisher", _S, "the publisher of the agent"),
        ("model", _S, "the model that the agent claims to run"),
    ], optional="instance groups publisher model", declarable="publisher model"),
    *_define_facts("user", FactOrigin.CREDENTIAL, [
        ("id", _S, "the user for whom the agent acts; without an agent, the user who calls"),
    ]),
    *_define_facts("credential", FactOrigin.CREDENTIAL, [
        ("kind", CREDENTIAL_KIND, "the kind of credential"),
        ("issuer", _S, "the issuer, as the policy names it"),
        ("subject", _S, "the subject that the credential names"),
        ("scopes", STRINGS, "the scopes that the credential carries"),
        ("lifetime", _D, "time from issue to expiry"),
        ("age", _D, "time since issue"),
        ("bound", _B, "whether the caller proved possession of the credential's key"),
        ("shared", _B, "whether the credential came from another network, or another agent or instance used its key"),
    ], optional="subject scopes", volatile="age"),
    *_define_facts("task", FactOrigin.CREDENTIAL, [
        ("id", _S, "the task for which the agent was started"),
        ("tools", STRINGS, "the tools that the task may use, as `server/name`, or as `name` for any server"),
        ("entities", ENTITIES, "the entities that the task is about"),
        ("age", _D, "time since the task began"),
    ], optional="id tools entities age", volatile="age"),
    *_define_facts("attestation", FactOrigin.CREDENTIAL, [
        ("verified", _B, "whether a valid attestation was presented"),
        ("by", _S, "the attester, as the policy names it"),
        ("model", _S, "the attested model"),
        ("model_hash", _S, "the hash of the model, `sha256:…`"),
        ("environment", _S, "the environment in which the agent runs: `sev-snp`, `tdx` …"),
        ("age", _D, "time since the attestation was made"),
    ], optional="by model model_hash environment age", volatile="age"),
    *_define_facts("chain", FactOrigin.CHAIN, [
        ("depth", Scalar.INT, "the number of hops before the presenter; unknown unless the issuer `records chains`"),
        ("root", _S, "the first agent of the chain, or the presenter if there is no chain"),
        ("agents", ListType(_S), "all agents of the chain, from first to last"),
    ]),
    *_define_facts("chain", FactOrigin.CREDENTIAL, [
        ("hops", ListType(HOP), "the hops before the presenter"),
    ]),
    *_define_facts("request", FactOrigin.ENDPOINT, [
        ("method", _S, "HTTP method; HEAD is read as GET"),
        ("path", _S, "the canonical path"),
    ], optional="method path"),
    *_define_facts("request", FactOrigin.REQUEST, [
        ("host", _S, "the requested host, without port and final dot, in lower case"),
        ("ip", Scalar.IP, "the address from which the request came"),
        ("size", Scalar.INT, "size of the body in bytes"),
    ], optional="host ip size"),
    *_define_facts("tool", FactOrigin.ENDPOINT, [
        ("name", _S, "the name of the tool"),
        ("server", _S, "the server that offers the tool"),
    ], optional="server"),
    *_define_facts("tool", FactOrigin.REQUEST, [
        ("pinned", _B, "whether the server lists the tool with a definition that was reviewed"),
        ("changed", _B, "whether the tool was reviewed, but the server lists it with another definition"),
        ("hash", _S, "the hash of the definition of the tool, `sha256:…`"),
    ], optional="pinned changed hash"),
    BuiltInFact(
        ("time",), Scalar.TIME, "the time of the decision", FactOrigin.ENGINE, volatile=True, always_known=True
    ),
    *_define_facts("approval", FactOrigin.ENGINE, [
        ("granted", _B, "whether a confirm that covers this request has its approval; otherwise false"),
        ("by", _S, "the approver"),
        ("age", _D, "time since the approval was granted"),
    ], optional="by age", volatile="granted by age", always_known="granted"),
    *_define_facts("behavior", FactOrigin.ENGINE, [
        ("ready", _B, "whether enough requests are known to judge the caller; false while there are too few"),
        ("trust", _N, "trust in the caller, 0 … 1: rises slowly and falls fast; 0.5 until the caller is ready"),
        ("burst", _B, "whether requests arrive far above the caller's usual rate"),
        ("novelty", _N, "share of recent requests with an endpoint or payload new for the caller and its class, 0 … 1"),
        ("error_rate", _N, "share of recent requests that failed, 0 … 1"),
        ("deviation", _N, "how unusual the order of requests in the run is, 0 … 1"),
        ("sequence", _B, "whether the calls of the run follow the order that `expect` declares; true without it"),
    ], volatile="ready trust burst novelty error_rate deviation sequence"),
    *_define_facts("cluster", FactOrigin.ENGINE, [
        ("id", _S, "the group of callers that move as one and share limits; the caller itself if it is in no group"),
        ("size", Scalar.INT, "the number of callers in the group; 1 if the caller is in no group"),
    ], volatile="id size"),
)  # fmt: skip

# Values for every caller about which nothing is learned. `cluster.id` is not among them: it is the caller itself.
NEUTRAL_VALUES: dict[tuple[str, ...], object] = {
    ("behavior", "trust"): Decimal("0.5"), ("behavior", "burst"): False, ("behavior", "novelty"): 0,
    ("behavior", "deviation"): 0, ("behavior", "error_rate"): 0, ("behavior", "sequence"): True,
    ("behavior", "ready"): False, ("cluster", "size"): 1,
}  # fmt: skip

# Learned facts: about the behavior of one caller, and about the group of callers in which it shares limits.
LEARNED_ROOTS = ("behavior", "cluster")
LEARNED_FACTS = {fact.path: fact for fact in FACTS if fact.path[0] in LEARNED_ROOTS}
CLUSTER_ID, CLUSTER_SIZE = ("cluster", "id"), ("cluster", "size")

# The state of the declared order of calls before the request: no fact, because no policy can name it.
ORDER_STEP = ("behavior", "step")


def learned_name(path: tuple[str, ...]) -> str:
    """Return the name of a learned fact in snapshots and logs: `trust`, `cluster.size`."""
    return path[1] if path[0] == "behavior" else ".".join(path)


def is_learned_value(path: tuple[str, ...], value: object) -> bool:
    """Return whether a learned fact can have the value."""
    if path == CLUSTER_ID:
        return isinstance(value, str)
    if path == CLUSTER_SIZE:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if LEARNED_FACTS[path].type is Scalar.BOOL:
        return isinstance(value, bool)
    return isinstance(value, int | Decimal) and not isinstance(value, bool) and 0 <= value <= 1


# Roots whose members may have any name; the members are strings or are declared by `facts`.
OPEN_ROOTS = {
    "body": "the request's body; members are declared by `facts`",
    "args": "the arguments of a tool call or an action; members are declared by `facts`",
    "context": "facts that the gateway adds; members are declared by `facts`",
    "params": "captures of the path, `{id}`: strings, or references if typed `{id: invoice}`",
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
    # Times in requests that policies read as ages.
    *(RequestMember((root, "issued_at"), Scalar.TIME) for root in ("credential", "attestation", "task")),
    RequestMember(("credential", "expires_at"), Scalar.TIME),
    RequestMember(("credential", "claims"), None),
    RequestMember(("credential", "fingerprint"), _S, in_tests=False),
    RequestMember(("credential", "refused"), _S),  # the reason why the credential was refused
)
HOP_MEMBERS: dict[str, Type] = {**{field.name: field.type for field in HOP.fields}, "groups": STRINGS}
ENTITY_ROOTS = ("user", "agent", "tool", "resource")
BUILT_IN_FACTS: dict[tuple[str, ...], BuiltInFact] = {fact.path: fact for fact in FACTS}
# The roots of facts that a credential proves, and those whose facts a test gives together: `given task { … }`.
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


# The roots of facts in a request with their members; None means any member. Attributes such as `user.roles` are
# deliberately not members.
ROOTS = _members_by_root()
SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "dpop", "txn-token"}
)


@dataclass(frozen=True, slots=True)
class BuiltInFunction:
    """A built-in function: its parameters (types, or names of groups of types), its result and its meaning."""

    name: str
    parameters: tuple[tuple[str, Type | str], ...]
    result: Type | str
    doc: str
    example: str
    total: bool = (
        # Whether the function has a result for every argument; other functions are unknown for some hosts, addresses or
        # numbers.
        False
    )


_TEXT, _NUMERIC = ("text", _S), "number or duration"
FUNCTIONS: tuple[BuiltInFunction, ...] = (
    BuiltInFunction("lower", (_TEXT,), _S, "the string in lower case", 'lower("ABC") == "abc"', total=True),
    BuiltInFunction("upper", (_TEXT,), _S, "the string in upper case", 'upper("abc") == "ABC"', total=True),
    BuiltInFunction(
        "starts_with",
        (_TEXT, ("prefix", _S)),
        _B,
        "whether the string begins with `prefix`",
        'starts_with("abc", "a")',
        total=True,
    ),
    BuiltInFunction(
        "ends_with",
        (_TEXT, ("suffix", _S)),
        _B,
        "whether the string ends with `suffix`",
        'ends_with("abc", "c")',
        total=True,
    ),
    BuiltInFunction(
        "contains", (_TEXT, ("part", _S)), _B, "whether the string contains `part`", 'contains("abc", "b")', total=True
    ),
    BuiltInFunction(
        "size",
        (("value", "text or collection"),),
        Scalar.INT,
        "the number of characters of a string, or of elements of a set or list",
        "size([1, 2]) == 2",
        total=True,
    ),
    BuiltInFunction(
        "host",
        (("url", _S),),
        _S,
        "the host of an absolute URL, in the form of `request.host`; unknown for other strings",
        'host("https://API.example/x") == "api.example"',
    ),
    BuiltInFunction(
        "domain",
        (("address", _S),),
        _S,
        "the part of a mail address after the `@`, in lower case",
        'domain("a@Acme.example") == "acme.example"',
    ),
    BuiltInFunction(
        "address",
        (("ip", Scalar.IP),),
        Scalar.IP,
        "the full IP address: `per address(request.ip)` counts each IPv6 address, `per request.ip` each /64 network",
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
    BuiltInFunction("min", (("a", _NUMERIC), ("b", "same")), "same", "the smaller value", "min(1, 2) == 1"),
    BuiltInFunction("max", (("a", _NUMERIC), ("b", "same")), "same", "the larger value", "max(1, 2) == 2"),
    BuiltInFunction("abs", (("a", _NUMERIC),), "same", "the value without its sign", "abs(-1) == 1"),
)

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
AUDIT_LEVELS = ("none", "brief", "full")
USER = RefType(frozenset({"user"}))
