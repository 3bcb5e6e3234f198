"""Built-in facts, functions, words of levels: one table for checker, evaluator, editor and documentation."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from policyengine.typesystem import EnumType, FieldType, ListType, RecordType, RefType, Scalar, SetType, Type


class FactOrigin(StrEnum):
    """Who says so: the caller's own request, a verified credential, or the engine itself."""

    REQUEST = "request"
    CREDENTIAL = "credential"
    ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class BuiltInFact:
    """A fact that every policy knows. `later` names the capability it waits for: until then it is `NEUTRAL_VALUES`."""

    path: tuple[str, ...]
    type: Type
    doc: str
    origin: FactOrigin = FactOrigin.REQUEST
    optional: bool = False
    volatile: bool = False  # changes from moment to moment: an approval is not bound to it
    later: str | None = None

    @property
    def name(self) -> str:
        return ".".join(self.path)


CREDENTIAL_KIND = EnumType(
    "credential kind",
    ("jwt", "mtls", "opaque", "dpop", "spiffe", "txn_token", "id_jag", "signature", "api_key", "basic", "session"),
    ordered=False,
)
STRINGS = SetType(Scalar.STRING)
ENTITIES = SetType(RefType(frozenset()))  # of whichever types a policy has: there it has all of them
HOP = RecordType(
    (
        FieldType("agent", Scalar.STRING),
        FieldType("issuer", Scalar.STRING),
        FieldType("issued_at", Scalar.TIME, optional=True),
        FieldType("scopes", STRINGS, optional=True),
    )
)


def _define_facts(
    root: str, origin: FactOrigin, rows: list[tuple[str, Type, str]], optional: str = "", volatile: str = "",
    later: str | None = None,
) -> tuple[BuiltInFact, ...]:  # fmt: skip
    maybe, moving = optional.split(), volatile.split()
    return tuple(
        BuiltInFact((root, name), type_, doc, origin, name in maybe, name in moving, later) for name, type_, doc in rows
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
    ], optional="instance groups publisher model"),
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
    *_define_facts("chain", FactOrigin.CREDENTIAL, [
        ("depth", Scalar.INT, "how many agents handed the work on; unknown unless the issuer `records chains`"),
        ("root", _S, "the first agent of the chain; the presenter itself when alone"),
        ("agents", ListType(_S), "all agents, first to last"),
        ("hops", ListType(HOP), "the hops before the presenter"),
    ]),
    *_define_facts("request", FactOrigin.REQUEST, [
        ("method", _S, "HTTP method; HEAD reads as GET"),
        ("path", _S, "the canonical path"),
        ("host", _S, "the host asked for, without port and final dot, in lower case"),
        ("ip", Scalar.IP, "where the request came from"),
        ("size", Scalar.INT, "bytes in the body"),
    ], optional="host ip size method path"),
    *_define_facts("tool", FactOrigin.REQUEST, [
        ("name", _S, "the tool called"),
        ("server", _S, "the server that offers it"),
    ], optional="server"),
    BuiltInFact(("time",), Scalar.TIME, "the moment of the decision", FactOrigin.ENGINE, volatile=True),
    *_define_facts("approval", FactOrigin.ENGINE, [
        ("granted", _B, "whether a confirm that covers this request has its approval; false without one"),
        ("by", _S, "who approved"),
        ("age", _D, "since the approval was granted"),
    ], optional="by age", volatile="granted by age"),
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
ENTITY_ROOTS = ("user", "agent", "tool", "resource")
FACT_ROOT_NAMES = frozenset({fact.path[0] for fact in FACTS} | set(OPEN_ROOTS) | set(ENTITY_ROOTS))
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


_TEXT, _NUMERIC = ("text", _S), "number or duration"
FUNCTIONS: tuple[BuiltInFunction, ...] = (
    BuiltInFunction("lower", (_TEXT,), _S, "the text in lower case", 'lower("ABC") == "abc"'),
    BuiltInFunction("upper", (_TEXT,), _S, "the text in upper case", 'upper("abc") == "ABC"'),
    BuiltInFunction(
        "starts_with", (_TEXT, ("prefix", _S)), _B, "whether the text begins so", 'starts_with("abc", "a")'
    ),
    BuiltInFunction("ends_with", (_TEXT, ("suffix", _S)), _B, "whether the text ends so", 'ends_with("abc", "c")'),
    BuiltInFunction("contains", (_TEXT, ("part", _S)), _B, "whether the part is in the text", 'contains("abc", "b")'),
    BuiltInFunction(
        "size",
        (("value", "text or collection"),),
        Scalar.INT,
        "characters of a text, elements of a set or list",
        "size([1, 2]) == 2",
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
