"""A question to decide: one endpoint, raw facts by root, approvals, entity rows and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

from policyengine.runtime import decode as wire
from policyengine.runtime.credentials import Credentials, read_credentials
from policyengine.runtime.endpoints import (
    ActionEndpoint,
    Endpoint,
    Facts,
    HttpEndpoint,
    MalformedEndpoint,
    ToolEndpoint,
    has_own_segments,
    read_endpoint,
)
from policyengine.runtime.entities import EntityData, read_entity_rows
from policyengine.runtime.fact_access import fact_at
from policyengine.runtime.host_names import parse_host
from policyengine.runtime.pending_facts import prepared_names, read_pending
from policyengine.runtime.plain_request import read_plain, read_value
from policyengine.runtime.structure_checks import (
    RequestError,
    check_members,
    get_flag,
    get_id,
    get_object,
    get_text,
    iterate_items,
)
from policyengine.runtime.values import (
    Invalid,
    coerce_time,
    describe_raw_value,
)
from policyengine.vocabulary import ENTITY_ROOTS, HOP_MEMBERS, ROOTS

__all__ = [
    "ActionEndpoint",
    "Approval",
    "Endpoint",
    "EntityData",
    "HttpEndpoint",
    "MalformedEndpoint",
    "Options",
    "Request",
    "RequestError",
    "ToolEndpoint",
]


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval that a trusted caller asserts, or that a person gave. Without `granted_at` its age is unknown.
    `issuer` is the issuer that vouches for the approver.
    """

    id: str
    by: str
    granted_at: datetime | None
    binding: str | None
    rule: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a question. `obligations_supported` is None if the caller does not list them; `at` is the time for
    which to decide, if the engine permits it. With `request_approval`, a confirm opens an approval.
    """

    consume: bool = True
    explain: bool = False
    obligations_supported: frozenset[str] | None = None
    at: datetime | None = None
    request_approval: bool = False


@dataclass(slots=True)  # treated as immutable; creating a frozen instance takes five times as long
class Request:
    """A question: may this endpoint be reached, with these facts?

    `facts` are raw, by root (`facts["body"]["amount"]`); a missing root is left out. All constructors raise
    RequestError for a wrong structure; a fact of a wrong type is unknown when a rule reads it. A caller that uses this
    class directly must pass plain values of exact types. Raw `credentials` are verified before the decision, and the
    facts that they prove replace those in `facts`.
    """

    endpoint: Endpoint
    facts: Mapping[str, object] = field(default_factory=dict)
    approvals: tuple[Approval, ...] = ()
    entities: tuple[EntityData, ...] = ()
    pending: frozenset[str] = frozenset()
    options: Options = Options()
    credentials: Credentials | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        named = self.endpoint.segments if isinstance(self.endpoint, HttpEndpoint) else ()
        if not wire.is_clean([*(getattr(self.endpoint, name) for name in self.endpoint.__struct_fields__), *named]):
            raise RequestError("", "the endpoint contains values that are not plain strings", FROM_OBJECTS)
        if isinstance(self.endpoint, HttpEndpoint) and not has_own_segments(self.endpoint):
            raise RequestError("", "the path of the endpoint and its segments differ", FROM_OBJECTS)
        if not wire.is_clean(self.facts):
            raise RequestError("", "the facts are not plain values", FROM_OBJECTS)

    @classmethod
    def from_json(cls, data: bytes | str) -> Request:
        """Parse JSON: numbers stay exact; a duplicate key, NaN or another hazard makes the fact unknown. Raises
        RequestError."""
        return decode_request(wire.from_json, data, ordinary=True)

    @classmethod
    def from_msgpack(cls, data: bytes) -> Request:
        """Parse MessagePack of the same shape. Raises RequestError."""
        return decode_request(wire.from_msgpack, data, ordinary=True)

    @classmethod
    def from_mapping(cls, data: Mapping[str, object]) -> Request:
        """Read Python objects: floats, Decimals, times, sets, addresses and EntityRefs are valid facts. Raises
        RequestError."""
        ordinary = read_ordinary_request(data) if type(data) is dict else None
        return decode_request(wire.from_python, data) if ordinary is None else ordinary

    def fact(self, *path: str) -> object:
        """Return the raw fact at a path (`"body", "amount"`): ABSENT, PENDING or Invalid if there is no value."""
        return fact_at(self.facts, path)


# ── From raw tree to request ─────────────────────────────────────────────────────────────────

NON_FACT_MEMBERS = ("credentials", "approvals", "entities", "pending", "options")
CHAIN_HOP_MEMBERS = tuple(HOP_MEMBERS)
APPROVAL_MEMBERS = ("id", "by", "granted_at", "binding", "issuer")
OPTION_MEMBERS = ("consume", "explain", "obligations_supported", "at", "request_approval")
FROM_OBJECTS = "`Request.from_mapping` reads objects of any class"
FROM_ELSEWHERE = (
    "attributes of a declared entity come from the entity store, from the credential's `claims`, "
    "or from `entities` in this request"
)

Data = TypeVar("Data")


def decode_request(decode: Callable[[Data], object], data: Data, *, ordinary: bool = False) -> Request:
    try:
        raw = decode(data)
    except wire.DecodeError as error:
        raise RequestError("", str(error)) from None
    if not isinstance(raw, dict):
        raise RequestError("", f"a request must be an object, got {describe_raw_value(raw)}")
    return (read_ordinary_request(raw) if ordinary else None) or read_request(raw)


def read_ordinary_request(raw: dict[str, object]) -> Request | None:
    """Return the request of an ordinary question, as `read_request` would; None for any other."""
    found = read_plain(raw)
    if found is None:
        return None
    endpoint, facts = found
    request = object.__new__(Request)  # the facts are plain and need no check
    request.endpoint, request.facts = endpoint, facts
    request.approvals, request.entities, request.pending = (), (), NOTHING_PENDING
    request.options, request.credentials = NO_OPTIONS, None
    if len(raw) > len(facts):
        try:
            add_other_parts(request, raw, facts)
        except Exception:  # `read_request` reports the error, if there is one
            return None
    return request


def add_other_parts(request: Request, raw: dict[str, object], facts: dict[str, object]) -> None:
    """Add pending facts, approvals, entity rows and options. Raises RequestError and DecodeError."""
    if raw.get("pending") is not None:
        prepared = prepared_names(raw["pending"])
        if prepared is None:
            request.pending = read_pending(read_value(raw["pending"], 1), facts)
        else:
            prepared.mark(facts)
            request.pending = prepared.names
    if raw.get("approvals") is not None:
        approvals = iterate_items(read_value(raw["approvals"], 1), "approvals")
        request.approvals = tuple(read_approval(item, place) for place, item in approvals)
    if raw.get("entities") is not None:
        request.entities = read_entity_rows(read_value(raw["entities"], 1), "entities")
    if raw.get("options") is not None:
        request.options = prepared_options(raw["options"]) or read_options(read_value(raw["options"], 1))


NO_OPTIONS = Options()
NOTHING_PENDING: frozenset[str] = frozenset()
OBLIGATIONS_SUPPORTED = "obligations_supported"
MAX_PREPARED_KINDS = 16  # maximum kinds of obligations in cached options, and maximum characters of each
MAX_PREPARED_LENGTH = 64


def prepared_options(raw: object) -> Options | None:
    """Return options that list the supported obligations and may request approvals, as gateways send them; None for all
    other options."""
    if type(raw) is not dict or OBLIGATIONS_SUPPORTED not in raw or set(map(type, raw)) != {str}:
        return None
    requests = raw.get("request_approval", False)
    if len(raw) != 1 and (len(raw) != 2 or "request_approval" not in raw or type(requests) is not bool):
        return None
    kinds = raw[OBLIGATIONS_SUPPORTED]
    if (type(kinds) is not list and type(kinds) is not tuple) or len(kinds) > MAX_PREPARED_KINDS:
        return None
    for kind in kinds:
        if type(kind) is not str or not kind or not kind.isascii() or len(kind) > MAX_PREPARED_LENGTH:
            return None
    return supporting_options(tuple(kinds), requests)


@lru_cache(maxsize=64)
def supporting_options(kinds: tuple[str, ...], requests: bool) -> Options:
    return Options(obligations_supported=frozenset(kinds), request_approval=requests)


def read_request(raw: Mapping[str, object]) -> Request:
    check_members(raw, (*ROOTS, *NON_FACT_MEMBERS), "")
    by_root = read_facts(raw)
    endpoint = read_endpoint(by_root)
    facts: dict[str, object] = {**by_root, **unreadable_body(raw)}
    pending = read_pending(raw.get("pending"), facts)
    return Request(
        endpoint,
        facts,
        approvals=tuple(read_approval(item, place) for place, item in iterate_items(raw.get("approvals"), "approvals")),
        entities=read_entity_rows(raw.get("entities"), "entities"),
        pending=pending,
        options=read_options(raw.get("options")),
        credentials=add_credential_url(read_credentials(raw.get("credentials")), raw, by_root),
    )


def add_credential_url(credentials: Credentials | None, raw: Mapping[str, object], facts: Facts) -> Credentials | None:
    """Return the credentials with the URL of the request, if they have none: proofs contain the URL with the port,
    which `request.host` lacks. None stays None.
    """
    given, path = raw.get("request"), facts.get("request", {}).get("path")
    host = given.get("host") if isinstance(given, Mapping) else None
    if credentials is None or credentials.url is not None or not isinstance(host, str) or not isinstance(path, str):
        return credentials
    return replace(credentials, url=f"https://{host}{path}")


def read_facts(raw: Mapping[str, object]) -> Facts:
    """Return the given groups of facts with a checked structure. Values of a wrong type stay and become unknown later.
    Raises RequestError.
    """
    said = raw.keys() - unreadable_body(raw).keys()
    facts = {root: read_root(root, raw.get(root)) for root in ROOTS if root in said and raw.get(root) is not None}
    get_object(facts.get("credential", {}).get("claims"), "credential.claims")
    for place, item in iterate_items(facts.get("chain", {}).get("hops"), "chain.hops"):
        check_members(get_object(item, place) or {}, CHAIN_HOP_MEMBERS, place)
    if "request" in facts:
        facts["request"] = read_http_facts(facts["request"])
    return facts


def unreadable_body(raw: Mapping[str, object]) -> dict[str, object]:
    """Return the body if it cannot be read: each of its members is then unknown for this reason."""
    body = raw.get("body")
    return {"body": body} if isinstance(body, Invalid) and body != wire.DUPLICATE_KEY else {}


def read_root(root: str, raw: object) -> dict[str, object]:
    given = get_object(raw, root) or {}
    allowed = ROOTS[root]
    if allowed is not None:
        check_members(given, allowed, root, FROM_ELSEWHERE if root in ENTITY_ROOTS else None)
    return dict(given)


def read_http_facts(given: dict[str, object]) -> dict[str, object]:
    """Return the facts with header names in lower case and a canonical host, so that no spelling bypasses a guard.
    Raises RequestError if the query or the headers are not an object.
    """
    get_object(given.get("query"), "request.query")
    headers = get_object(given.get("headers"), "request.headers")
    host = given.get("host")
    return {
        **given,
        **({} if headers is None else {"headers": lower_case_names(headers)}),
        **({"host": parse_host(host)} if isinstance(host, str) else {}),
    }


def lower_case_names(headers: Mapping[str, object]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, value in headers.items():
        lower = name.lower()
        result[lower] = Invalid("a duplicate header") if lower in result else value
    return result


# ── Parts besides facts ───────────────────────────────────────────────────────────────────────────


def read_approval(raw: object, member: str) -> Approval:
    given = get_object(raw, member) or {}
    check_members(given, APPROVAL_MEMBERS, member)
    return Approval(
        id=get_id(given.get("id"), f"{member}.id"),
        by=get_id(given.get("by"), f"{member}.by"),
        granted_at=read_time(given.get("granted_at"), f"{member}.granted_at"),
        binding=None if given.get("binding") is None else get_text(given["binding"], f"{member}.binding"),
        issuer=None if given.get("issuer") is None else get_text(given["issuer"], f"{member}.issuer"),
    )


def read_options(raw: object) -> Options:
    given = get_object(raw, "options") or {}
    check_members(given, OPTION_MEMBERS, "options")
    supported = given.get("obligations_supported")
    kinds = (get_text(item, place) for place, item in iterate_items(supported, "options.obligations_supported"))
    return Options(
        consume=get_flag(given.get("consume"), "options.consume", default=True),
        explain=get_flag(given.get("explain"), "options.explain", default=False),
        obligations_supported=None if supported is None else frozenset(kinds),
        at=read_time(given.get("at"), "options.at"),
        request_approval=get_flag(given.get("request_approval"), "options.request_approval", default=False),
    )


def read_time(raw: object, member: str) -> datetime | None:
    if raw is None:
        return None
    time = coerce_time(raw, member)
    if not isinstance(time, datetime):
        raise RequestError(
            member, f"`{member}` must be a time with a zone", "write a time such as `2027-01-01T09:00:00Z`"
        )
    return time
