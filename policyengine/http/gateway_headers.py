"""Reads the headers in which a gateway states the agent, user and credential, and builds the question for the engine.

The gateway removes these headers from the client's request and sets them itself. By default all begin with `X-Agent-`,
so that one line removes them all. A repeated, respelled or malformed header is refused, because it is unknown which
value the gateway set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from policyengine.http.body_facts import METHOD_OVERRIDE, body_members
from policyengine.http.body_method_override import names_method
from policyengine.http.client_credentials import (
    CERTIFICATE_HEADERS,
    CREDENTIAL_HEADERS,
    read_client_credentials,
    request_url,
)
from policyengine.http.client_credentials import FORWARDED_AUTHORIZATION as FORWARDED_AUTHORIZATION
from policyengine.http.gateway_omissions import (
    ALL,
    WITHHELD_HEADERS,
    ForwardedParts,
    GatewayAdapter,
    HeaderValues,
    header_facts,
    unknown_headers,
)
from policyengine.http.query_fields import Field, query_fields
from policyengine.runtime.header_names import check_spellings
from policyengine.runtime.request import RequestError
from policyengine.runtime.values import Invalid
from policyengine.vocabulary import FACTS, FactOrigin

RawHeaderPairs = Iterable[tuple[bytes, bytes]]
Facts = Mapping[str, Mapping[str, object]]
# The part of the body that the gateway sent. Text is not what the client sent: the gateway has replaced bytes that are
# not UTF-8.
Content: TypeAlias = bytes | str

MAX_VALUE_LENGTH = 4_096
SECONDS = re.compile(r"[0-9]{1,11}(?:\.[0-9]{1,9})?")
BYTES = re.compile(r"[0-9]{1,15}")
SPIFFE = re.compile(r"spiffe://(?P<domain>[a-z0-9._-]{1,255})/[A-Za-z0-9._/-]{1,1024}")
BODY_AS_TEXT = Invalid("the body was sent as text, not as bytes (set `pack_as_bytes`)")
PARTIAL_BODY = "x-envoy-auth-partial-body"
FORWARDED_HEADERS = ("x-forwarded-method", "x-forwarded-uri", "x-forwarded-host")
# From these headers, upstream servers may take a path that differs from that of the request line.
OTHER_TARGET_HEADERS = ("x-original-url", "x-rewrite-url", "x-original-uri", "x-original-method")
OWN_HEADERS = ("x-auth-subject", "x-auth-user")
# Headers that cannot carry a fact, because they have another meaning or every client sets them.
RESERVED_HEADERS = (
    frozenset(
        {*FORWARDED_HEADERS, *OTHER_TARGET_HEADERS, *OWN_HEADERS, "x-request-id", "content-type", "idempotency-key"}
    )
    | WITHHELD_HEADERS
)
# Headers that servers trust, or that determine how servers parse a body; a respelled one is refused.
TRUSTED_HEADERS = frozenset(
    {
        *CREDENTIAL_HEADERS,
        *WITHHELD_HEADERS,
        "content-encoding",
        "content-type",
        "x-decision-id",
        "x-real-ip",
        "x-would-be",
    }
)
# Facts about the caller that may exist although no header states them.
OPTIONAL_FACTS = ("agent_instance", "agent_groups", "credential_kind", "credential_scopes", "credential_bound")


@dataclass(frozen=True, slots=True)
class GatewayHeaders:
    """The header (in lower case; "" for none) of each fact. `obligations` are the kinds that the gateway fulfils.
    `trust_domains` are SPIFFE trust domains (`acme.example`), each with its issuer in the policy. `hands_on_…` are the
    headers that reach an adapter whenever the client sends them, or `all`; `bodies` are the adapters whose gateway
    sends every body, or refuses the request.

    `client_certificate`: the header with the certificate of the client's connection; None if the gateway does not set
    this header, because it would then pass on the client's own.
    """

    agent_id: str = "x-agent-id"
    agent_issuer: str = "x-agent-issuer"
    agent_instance: str = "x-agent-instance"
    agent_groups: str = "x-agent-groups"
    user_id: str = "x-agent-user"
    credential_kind: str = "x-agent-credential"
    credential_issuer: str = "x-agent-credential-issuer"
    credential_scopes: str = "x-agent-scopes"
    credential_issued_at: str = "x-agent-issued-at"
    credential_expires_at: str = "x-agent-expires-at"
    credential_lifetime: str = "x-agent-lifetime"
    credential_bound: str = "x-agent-bound"
    request_ip: str = "x-forwarded-for"
    request_size: str = ""  # if named, the gateway must remove it from clients: an empty body may satisfy a grant
    obligations: tuple[str, ...] = ()
    trust_domains: tuple[tuple[str, str], ...] = ()
    client_certificate: str | None = None
    hands_on_forward_auth: tuple[str, ...] = (ALL,)
    hands_on_nginx: tuple[str, ...] = ()
    hands_on_envoy: tuple[str, ...] = ()
    hands_on_envoy_grpc: tuple[str, ...] = (ALL,)
    bodies: tuple[str, ...] = ()

    def hands_on(self, adapter: GatewayAdapter) -> ForwardedParts:
        names: tuple[str, ...] = getattr(self, f"hands_on_{adapter}")
        headers = None if names == (ALL,) else frozenset(names)
        return ForwardedParts(
            headers, adapter in self.bodies, joins=adapter in (GatewayAdapter.NGINX, GatewayAdapter.ENVOY)
        )

    def hides_absence(self, adapter: GatewayAdapter, path: tuple[str, ...]) -> bool:
        """Whether the absence of a fact is unknown to this adapter."""
        hands_on = self.hands_on(adapter)
        match path:
            case ("body", *_):
                return not hands_on.bodies
            case ("request", "size"):
                return not hands_on.bodies and (adapter.sends_bodies or not self.request_size)
            case ("request", "headers", name):
                return not hands_on.shows_absence(name)
            case ("context", *_):
                return True
            case _ if ".".join(path) in UNCARRIED_FACTS:
                return True
            case (root, member) if f"{root}_{member}" in OPTIONAL_FACTS:
                return not hands_on.shows_absence(getattr(self, f"{root}_{member}"))
            case _:
                return False

    @property
    def facts(self) -> dict[str, str]:
        """The header of each fact that has one, by the key of the fact."""
        named = {one.name: getattr(self, one.name) for one in fields(self) if one.type == "str"}
        return {key: header for key, header in named.items() if header}


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """The request line as the client sent it."""

    method: str
    uri: str
    host: str | None


# ── Headers ───────────────────────────────────────────────────────────────────────────────────


def collect_headers(raw: RawHeaderPairs) -> HeaderValues:
    """Collect all values of each name; bytes that are not UTF-8 become surrogates."""
    found: dict[str, tuple[str, ...]] = {}
    for name, value in raw:
        key = name.decode("latin-1").lower()
        found[key] = (*found.get(key, ()), value.decode("utf-8", "surrogateescape"))
    return found


def get_only_value(given: HeaderValues, name: str) -> str | None:
    """Return the value of a header that the gateway sets; None if it is missing or empty. Raises RequestError."""
    values = given.get(name, ())
    if len(values) > 1:
        raise header_error(name, "is repeated", "the gateway must replace the client's value")
    value = values[0].strip(" \t") if values else ""
    if not value:
        return None
    if len(value) > MAX_VALUE_LENGTH or not value.isprintable():
        raise header_error(name, "is not readable", "write at most 4,096 visible characters in UTF-8")
    return value


def header_error(name: str, why: str, hint: str | None = None) -> RequestError:
    return RequestError(f"headers.{name}", f"the header `{name}` {why}", hint)


# ── Facts ─────────────────────────────────────────────────────────────────────────────────────


def parse_word(name: str, value: str) -> str:
    """Return a single value, which must not have a comma: gateways join repeated headers with commas."""
    if "," in value:
        raise header_error(name, "contains a comma, as if it were repeated")
    return value


def parse_list(name: str, value: str) -> list[str]:
    return [one for one in (part.strip() for part in value.split(",")) if one]


def parse_scopes(name: str, value: str) -> list[str]:
    """Split scopes at spaces, as in OAuth."""
    return parse_word(name, value).split()


def parse_time_or_seconds(name: str, value: str) -> str | datetime:
    """Parse a time, or seconds since 1970, as tokens write them."""
    if not SECONDS.fullmatch(value):
        return parse_word(name, value)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=float(value))


def parse_boolean(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise header_error(name, "is neither `true` nor `false`")
    return value == "true"


def parse_byte_count(name: str, value: str) -> int:
    if not BYTES.fullmatch(parse_word(name, value)):
        raise header_error(name, "is not a number of bytes")
    return int(value)


HEADER_PARSERS: Mapping[str, Callable[[str, str], object]] = {
    "agent_groups": parse_list,
    "credential_scopes": parse_scopes,
    "credential_issued_at": parse_time_or_seconds,
    "credential_expires_at": parse_time_or_seconds,
    "credential_bound": parse_boolean,
    "request_size": parse_byte_count,
}

CARRIED_KEYS = frozenset(one.name for one in fields(GatewayHeaders))
# Facts about the caller that no header carries, so that their absence is never known. They do not include the subject,
# which is the user that the gateway states.
UNCARRIED_FACTS = tuple(
    fact.name
    for fact in FACTS
    if fact.path[0] in ("agent", "credential") and fact.optional and "_".join(fact.path) not in CARRIED_KEYS
    and fact.path != ("credential", "subject")
)  # fmt: skip
HTTP_FACTS = tuple(fact.name for fact in FACTS if fact.path[0] == "request" and fact.origin is FactOrigin.REQUEST)


def read_header_facts(given: HeaderValues, names: GatewayHeaders) -> dict[str, dict[str, object]]:
    """Return the facts of all headers by root. Raises RequestError."""
    found: dict[str, dict[str, object]] = {}
    for key, header in names.facts.items():
        value = get_only_value(given, header)
        if value is not None:
            root, _, member = key.partition("_")
            found.setdefault(root, {})[member] = HEADER_PARSERS.get(key, parse_word)(header, value)
    return found


def read_spiffe_facts(principal: str, names: GatewayHeaders) -> dict[str, dict[str, object]]:
    """Return the agent and credential of a certificate that the gateway verified, if its name is a SPIFFE id in a
    trusted domain; otherwise nothing."""
    found = SPIFFE.fullmatch(principal)
    issuer = dict(names.trust_domains).get(found["domain"]) if found else None
    if issuer is None:
        return {}
    return {
        "agent": {"id": principal, "issuer": issuer},
        "credential": {"kind": "mtls", "issuer": issuer, "bound": True},
    }


# ── The question ──────────────────────────────────────────────────────────────────────────────


def read_forwarded_target(given: HeaderValues) -> RequestTarget:
    """Read the target from the headers of Caddy, Traefik, or nginx as configured. Raises RequestError."""
    method, uri, host = (get_only_value(given, name) for name in FORWARDED_HEADERS)
    if method is None or uri is None:
        missing = FORWARDED_HEADERS[0] if method is None else FORWARDED_HEADERS[1]
        raise header_error(missing, "is missing", "the gateway must set it to the client's request")
    return RequestTarget(method, uri, host)


def build_question(
    target: RequestTarget,
    given: HeaderValues,
    names: GatewayHeaders,
    hands_on: ForwardedParts,
    content: Content | None = None,
    vouched: Facts | None = None,
) -> dict[str, object]:
    """Build the question in the shape of `/decide`; facts that the gateway does not show are pending. `content` is the
    part of the body that the gateway sent, or None if it never sends bodies; `vouched` holds further facts about the
    caller. Raises RequestError."""
    ours = (
        *names.facts.values(),
        *FORWARDED_HEADERS,
        *OWN_HEADERS,
        *OTHER_TARGET_HEADERS,
        *CERTIFICATE_HEADERS,
        FORWARDED_AUTHORIZATION,
    )
    check_spellings(given, (*ours, *TRUSTED_HEADERS))
    for name in OTHER_TARGET_HEADERS:
        if name in given:
            raise header_error(name, "makes some servers use another path", "the gateway must remove it")
    facts: dict[str, dict[str, object]] = {**(vouched or {}), **read_header_facts(given, names)}  # type: ignore[dict-item]
    body, size = read_body_and_size(given, hands_on, content, facts.get("request", {}).pop("size", None))
    path, _, query = target.uri.partition("?")
    request = {
        **facts.pop("request", {}),
        "method": target.method,
        "path": path,
        "query": read_query(query),
        "headers": header_facts(given, hands_on, ours),
        **({} if target.host is None else {"host": target.host}),
        **({} if size is None else {"size": size}),
    }
    pending = [
        *([] if body is not None else ["body"]),
        "context",
        *(name for name in HTTP_FACTS if name.removeprefix("request.") not in request),
        *unknown_headers(given, hands_on, ours),
        *missing_facts(facts, given, names, hands_on),
    ]
    said = {**facts, **({} if body is None else {"body": body}), "pending": pending}
    return {"request": request, **said, "options": {"obligations_supported": list(names.obligations)}}


def missing_facts(facts: Facts, given: HeaderValues, names: GatewayHeaders, hands_on: ForwardedParts) -> Iterator[str]:
    """Yield the optional facts that no header states; an empty header states that there is no such fact."""
    for key in OPTIONAL_FACTS:
        root, _, member = key.partition("_")
        header = getattr(names, key)
        silent = header == "" or (header not in given and not hands_on.shows_absence(header))
        if root in facts and member not in facts[root] and silent:
            yield f"{root}.{member}"
    yield from (name for name in UNCARRIED_FACTS if name.partition(".")[0] in facts)


def read_body_and_size(
    given: HeaderValues, hands_on: ForwardedParts, content: Content | None, said: object
) -> tuple[Mapping[str, object] | Invalid | None, object]:
    """Return the members of the body and its size: no members if the body is empty, None for what is unknown. `said`,
    the size that the gateway states, is used only if the gateway never sends bodies."""
    if content is None:
        return ({} if said == 0 else None), said
    whole = whole_body(given, content)
    if whole is not None:
        return read_body(given, whole), len(raw_body(whole))
    if content:
        return find_body_override(given, content), None
    empty = hands_on.bodies and given.get(PARTIAL_BODY, ("false",)) == ("false",)
    return ({}, 0) if empty else (None, None)


def read_body(given: HeaderValues, content: Content) -> Mapping[str, object] | Invalid:
    """Return the members of a whole body, or the reason that they are unknown."""
    if isinstance(content, str):
        return find_body_override(given, content) or BODY_AS_TEXT
    return body_members(given.get("content-type", ()), given.get("content-encoding", ()), content)


def find_body_override(given: HeaderValues, content: Content) -> Mapping[str, object] | None:
    """Return the method override of an unread body, or None."""
    return METHOD_OVERRIDE if names_method(given.get("content-type", ()), raw_body(content)) else None


def add_credentials(
    question: dict[str, object],
    target: RequestTarget,
    given: HeaderValues,
    *,
    own: bool,
    certificate: str | None,
    content: Content | None = None,
) -> dict[str, object]:
    """Add the client's raw credentials to the question. `own`: `Authorization` is the client's, because this server
    requires no token. `certificate`: the header with the client's certificate. `content`: the part of the body that the
    gateway sent. Raises RequestError."""
    url, whole = request_url(given, target.host, target.uri), whole_body(given, content)
    signed = None if whole is None else raw_body(whole)
    found = read_client_credentials(
        given, method=target.method, url=url, own=own, certificate=certificate, content=signed
    )
    return {**question, "credentials": found} if found else question


def whole_body(given: HeaderValues, content: Content | None) -> Content | None:
    """Return the body if the gateway states that it is complete. Otherwise it may be missing or cut off, and is treated
    as unknown."""
    return content or None if given.get(PARTIAL_BODY) == ("false",) else None


def raw_body(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


def read_query(text: str) -> dict[str, Field]:
    """Return the query parameters by name. Raises RequestError."""
    found = query_fields(text)
    if isinstance(found, Invalid):
        raise RequestError("request.query", f"the query has {found.why}")
    return found
