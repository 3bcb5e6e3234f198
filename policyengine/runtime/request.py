"""A question as the decision sees it: one endpoint, raw facts by root, approvals, rows and options."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
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
    read_endpoint,
)
from policyengine.runtime.entities import EntityData, read_entity_rows
from policyengine.runtime.header_names import OTHER_SPELLING, has_other_spelling
from policyengine.runtime.host_names import parse_host
from policyengine.runtime.structure_checks import (
    RequestError,
    check_members,
    did_you_mean,
    get_flag,
    get_id,
    get_object,
    get_text,
    iterate_items,
    quote_input,
)
from policyengine.runtime.values import (
    ABSENT,
    PENDING,
    Invalid,
    MissingValue,
    PartialObject,
    coerce_time,
    describe_raw_value,
)
from policyengine.vocabulary import ENTITY_ROOTS, FACTS, HOP_MEMBERS, REQUEST_MEMBERS, ROOTS, FactOrigin

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
    """What a trusted caller says a person granted. Without `granted_at` its age is unknown."""

    id: str
    by: str
    granted_at: datetime | None
    binding: str | None
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """`obligations_supported` None: the caller did not say; `at`: decide as of that time, if the engine allows it."""

    consume: bool = True
    explain: bool = False
    obligations_supported: frozenset[str] | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A question: may this endpoint be reached, with these facts?

    `facts` are raw and by root (`facts["body"]["amount"]`); a root that was not given is not there. Every way to make
    one raises RequestError when the structure is wrong; a fact of a wrong type is no error but unknown when asked for.
    Whoever calls this class itself has read the facts already: they are plain values, each of exactly its type.
    Raw `credentials` are verified before anything is decided, and what they prove stands in place of what `facts` say.
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
        if not wire.is_clean([*(getattr(self.endpoint, one.name) for one in fields(self.endpoint)), *named]):
            raise RequestError("", "the endpoint is not made of plain strings", FROM_OBJECTS)
        if not wire.is_clean(self.facts):
            raise RequestError("", "the facts are not plain values", FROM_OBJECTS)

    @classmethod
    def from_json(cls, data: bytes | str) -> Request:
        """From JSON: numbers stay exact; duplicate keys, NaN and the like make the fact unknown."""
        return decode_request(wire.from_json, data)

    @classmethod
    def from_msgpack(cls, data: bytes) -> Request:
        """From MessagePack of the same shape."""
        return decode_request(wire.from_msgpack, data)

    @classmethod
    def from_mapping(cls, data: Mapping[str, object]) -> Request:
        """From Python objects: floats, Decimals, times, sets, addresses and EntityRefs are welcome as facts."""
        return decode_request(wire.from_python, data)

    def fact(self, *path: str) -> object:
        """The raw fact there (`"body", "amount"`): ABSENT, PENDING or Invalid where there is none to be had."""
        if path[:2] == HEADERS_PATH and len(path) > 2:
            return self._header(path[2].lower(), path[3:])
        current: object = self.facts
        ours = path[0] not in CLIENT_ROOTS
        for name in path:
            current = current.get(name, ABSENT) if ours and type(current) is dict else get_member(current, name)
        return ABSENT if current is None else current

    def _header(self, name: str, path: tuple[str, ...]) -> object:
        """One that is not there is unknown where some servers take another that is there for it."""
        headers = self.fact(*HEADERS_PATH)
        current = get_member(headers, name)
        if current in (ABSENT, None) and isinstance(headers, dict) and has_other_spelling(headers, name):
            return OTHER_SPELLING
        for step in path:
            current = get_member(current, step)
        return ABSENT if current is None else current


def fact_path(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path as `facts` spell it: header names have no case."""
    return (*path[:2], *(name.lower() for name in path[2:])) if path[:2] == HEADERS_PATH else path


def get_member(raw: object, name: str) -> object:
    """A member that is not there is unknown where its name is in another case: some readers take that one for it."""
    match raw:
        case dict():  # objects of a clean tree are nothing else, and it is asked at every step of every path
            found = raw.get(name, PENDING if type(raw) is PartialObject else ABSENT)
            return OTHER_CASE if (found is ABSENT or found is None) and has_other_case(raw, name) else found
        case Invalid() | MissingValue():
            return raw
        case None:
            return ABSENT
        case _:
            return Invalid(f"expected object, got {describe_raw_value(raw)}")


def has_other_case(members: Mapping[str, object], name: str) -> bool:
    folded = name.casefold()
    return any(one != name and one.casefold() == folded for one in members)


# ── The raw tree to a request ─────────────────────────────────────────────────────────────────

CLIENT_ROOTS = frozenset({"body", "args", "context", "request"})  # whose members their own words are
OTHER_CASE = Invalid("absent, but there in another case")
HEADERS_PATH = ("request", "headers")
NON_FACT_MEMBERS = ("credentials", "approvals", "entities", "pending", "options")
CHAIN_HOP_MEMBERS = tuple(HOP_MEMBERS)
APPROVAL_MEMBERS = ("id", "by", "granted_at", "binding")
OPTION_MEMBERS = ("consume", "explain", "obligations_supported", "at")
FROM_OBJECTS = "`Request.from_mapping` reads objects of any class"
FROM_ELSEWHERE = (
    "attributes of a declared entity come from the directory, from the credential's `claims`, "
    "or from `entities` in this request"
)
PENDING_FACT = re.compile(r"""[a-z]+(?:\.[A-Za-z_][A-Za-z0-9_]*|\["[^"\\]+"\])*""")
STEP = re.compile(r"""(?<=\[")[^"]+|[A-Za-z_][A-Za-z0-9_]*""")
MAX_FACT_NAME_LENGTH = 1_000
PENDING_WILDCARD = ".*"  # at the end of a name: every member that is not given
FREE_OBJECTS = frozenset(
    [(root,) for root, members in ROOTS.items() if members is None]
    + [member.path for member in REQUEST_MEMBERS if member.type is None]
)
# A question about no definite endpoint is none.
ENDPOINT_FACTS = frozenset(fact.path for fact in FACTS if fact.origin is FactOrigin.ENDPOINT)
ENDPOINT_PATHS = ENDPOINT_FACTS | {("request",), ("tool",), ("action",), ("action", "name")}

Data = TypeVar("Data")


def decode_request(decode: Callable[[Data], object], data: Data) -> Request:
    try:
        raw = decode(data)
    except wire.DecodeError as error:
        raise RequestError("", str(error)) from None
    if not isinstance(raw, dict):
        raise RequestError("", f"a request is an object, got {describe_raw_value(raw)}")
    return read_request(raw)


def read_request(raw: Mapping[str, object]) -> Request:
    check_members(raw, (*ROOTS, *NON_FACT_MEMBERS), "")
    by_root = read_facts(raw)
    endpoint = read_endpoint(by_root)
    facts: dict[str, object] = {**by_root, **unreadable_body(raw)}
    pending = [(get_text(item, place), place) for place, item in iterate_items(raw.get("pending"), "pending")]
    for name, place in pending:
        mark_pending(facts, name, place)
    return Request(
        endpoint,
        facts,
        approvals=tuple(read_approval(item, place) for place, item in iterate_items(raw.get("approvals"), "approvals")),
        entities=read_entity_rows(raw.get("entities"), "entities"),
        pending=frozenset(name for name, _ in pending),
        options=read_options(raw.get("options")),
        credentials=add_credential_url(read_credentials(raw.get("credentials")), raw, by_root),
    )


def add_credential_url(credentials: Credentials | None, raw: Mapping[str, object], facts: Facts) -> Credentials | None:
    """A proof names the URL with its port, which is no part of the fact `request.host`."""
    given, path = raw.get("request"), facts.get("request", {}).get("path")
    host = given.get("host") if isinstance(given, Mapping) else None
    if credentials is None or credentials.url is not None or not isinstance(host, str) or not isinstance(path, str):
        return credentials
    return replace(credentials, url=f"https://{host}{path}")


def read_facts(raw: Mapping[str, object]) -> Facts:
    """Every root that is given, its structure checked; leaves of a wrong type stay and turn out unknown."""
    said = raw.keys() - unreadable_body(raw).keys()
    facts = {root: read_root(root, raw.get(root)) for root in ROOTS if root in said and raw.get(root) is not None}
    get_object(facts.get("credential", {}).get("claims"), "credential.claims")
    for place, item in iterate_items(facts.get("chain", {}).get("hops"), "chain.hops"):
        check_members(get_object(item, place) or {}, CHAIN_HOP_MEMBERS, place)
    if "request" in facts:
        facts["request"] = read_http_facts(facts["request"])
    return facts


def unreadable_body(raw: Mapping[str, object]) -> dict[str, object]:
    """One that cannot be read: each member is unknown, and for the same reason."""
    body = raw.get("body")
    return {"body": body} if isinstance(body, Invalid) and body != wire.DUPLICATE_KEY else {}


def read_root(root: str, raw: object) -> dict[str, object]:
    given = get_object(raw, root) or {}
    allowed = ROOTS[root]
    if allowed is not None:
        check_members(given, allowed, root, FROM_ELSEWHERE if root in ENTITY_ROOTS else None)
    return dict(given)


def read_http_facts(given: dict[str, object]) -> dict[str, object]:
    """Names of headers have no case, and hosts neither case nor port: no spelling slips past a guard."""
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


# ── What is not yet known; what came along ────────────────────────────────────────────────────


def mark_pending(facts: dict[str, object], name: str, place: str) -> None:
    """Put PENDING where the fact will be. Pending attributes of entities stand in `Request.pending` only."""
    if name.endswith(PENDING_WILDCARD):
        return mark_others_pending(facts, name, place)
    path = parse_pending_path(name, place)
    if is_entity_attribute(path):
        return
    holder = ensure_object(facts, path[:-1], name, place)
    if holder is None:
        return
    if holder.get(path[-1]) not in (None, PENDING):
        raise RequestError(place, f"`{name}` is both given and pending")
    holder[path[-1]] = PENDING


def is_entity_attribute(path: tuple[str, ...]) -> bool:
    """Whether it is one of an entity, which no tree of facts holds: `user.roles`."""
    return path[0] in ENTITY_ROOTS and len(path) > 1 and path[1] not in (ROOTS[path[0]] or ())


def pending_outside(names: Iterable[str], roots: Collection[str]) -> frozenset[str]:
    """The names of pending facts that are in none of these roots, as somebody else says all of them."""
    paths = {name: parse_pending_path(name.removesuffix(PENDING_WILDCARD), "pending") for name in names}
    return frozenset(name for name, path in paths.items() if path[0] not in roots or is_entity_attribute(path))


def mark_others_pending(facts: dict[str, object], name: str, place: str) -> None:
    """`body.*`: the members that are given stand, and nothing is known of any other."""
    path = parse_pending_path(name.removesuffix(PENDING_WILDCARD), place)
    if path not in FREE_OBJECTS and (path[0],) not in FREE_OBJECTS and path[:2] not in FREE_OBJECTS:
        raise RequestError(place, f"`{name}` is pending, but the members of `{path[-1]}` have names", "name them")
    holder = ensure_object(facts, path[:-1], name, place)
    given = ensure_object(facts, path, name, place)
    if holder is not None and given is not None:
        holder[path[-1]] = PartialObject(given)


def ensure_object(facts: dict[str, object], path: tuple[str, ...], name: str, place: str) -> dict[str, object] | None:
    """The object there, made where it has to be. None where nobody knows whether it is given, as it is pending or
    was not given itself: then all of it is pending."""
    holder = facts
    for depth, step in enumerate(path, 1):
        below = holder.get(step)
        if below is None and (depth == 1 or path[:depth] in FREE_OBJECTS):
            below = holder[step] = {}
        elif below is None:
            below = holder[step] = PENDING
        if below is PENDING:
            return None
        if not isinstance(below, dict):
            raise RequestError(place, f"`{name}` is pending, but `{step}` is no object")
        holder = below
    return holder


@lru_cache(maxsize=4_096)  # callers send the same names again and again
def parse_pending_path(name: str, place: str) -> tuple[str, ...]:
    if len(name) > MAX_FACT_NAME_LENGTH or not PENDING_FACT.fullmatch(name):
        raise RequestError(place, f"`{quote_input(name)}` is no name of a fact")
    root, *steps = STEP.findall(name)
    allowed = ROOTS.get(root, ())
    if root not in ROOTS:
        raise RequestError(place, f"unknown fact `{quote_input(name)}`", did_you_mean(root, ROOTS))
    if (root, *steps[:1]) in ENDPOINT_PATHS:
        raise RequestError(place, f"`{name}` names the endpoint and cannot be pending")
    if steps and allowed is not None and root not in ENTITY_ROOTS and steps[0] not in allowed:
        raise RequestError(place, f"unknown fact `{quote_input(name)}`", did_you_mean(steps[0], allowed))
    return fact_path((root, *steps))


def read_approval(raw: object, member: str) -> Approval:
    given = get_object(raw, member) or {}
    check_members(given, APPROVAL_MEMBERS, member)
    return Approval(
        id=get_id(given.get("id"), f"{member}.id"),
        by=get_id(given.get("by"), f"{member}.by"),
        granted_at=read_time(given.get("granted_at"), f"{member}.granted_at"),
        binding=None if given.get("binding") is None else get_text(given["binding"], f"{member}.binding"),
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
    )


def read_time(raw: object, member: str) -> datetime | None:
    if raw is None:
        return None
    time = coerce_time(raw, member)
    if not isinstance(time, datetime):
        raise RequestError(member, f"`{member}` is no time with a zone", "write it like `2027-01-01T09:00:00Z`")
    return time
