"""The headers in which a gateway states the agent, user and credential, and how to read each of them.

The gateway removes these headers from the client's request and sets them itself. By default all begin with `X-Agent-`,
so that one line removes them all. A repeated, respelled or malformed header is refused, because it is unknown which
value the gateway set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta

from policyengine.http.client_credentials import CREDENTIAL_HEADERS
from policyengine.http.gateway_omissions import (
    ALL,
    WITHHELD_HEADERS,
    ForwardedParts,
    GatewayAdapter,
    HeaderValues,
)
from policyengine.runtime.request import RequestError
from policyengine.vocabulary import FACTS, FactOrigin

RawHeaderPairs = Iterable[tuple[bytes, bytes]]

MAX_VALUE_LENGTH = 4_096
SECONDS = re.compile(r"[0-9]{1,11}(?:\.[0-9]{1,9})?")
BYTES = re.compile(r"[0-9]{1,15}")
SPIFFE = re.compile(r"spiffe://(?P<domain>[a-z0-9._-]{1,255})/[A-Za-z0-9._/-]{1,1024}")
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
# Headers that servers trust, or that determine how servers parse a body; other spellings of them are refused.
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
    """The header (in lower case; "" for none) of each fact.

    `obligations` are the kinds of obligations that the gateway fulfills. `trust_domains` are SPIFFE trust domains
    (`acme.example`), each with its issuer in the policy. `hands_on_…` are the headers that reach an adapter whenever
    the client sends them, or `all`; `bodies` are the adapters whose gateway sends every body, or refuses the request.
    `client_certificate` is the header with the certificate of the client's connection; it must be None if the gateway
    does not set this header, because the client could then set the header itself.
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
    # If this header is configured, the gateway must remove it from client requests: a client could claim an empty body,
    # and an empty body may satisfy a grant.
    request_size: str = ""
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
        """Return whether this adapter cannot know that a fact is absent."""
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

    def never_sends(self, adapter: GatewayAdapter, path: tuple[str, ...]) -> bool:
        """Return whether a fact cannot reach this adapter, so that it is unknown there in every request."""
        match path:
            case ("body", *_):
                return not adapter.sends_bodies
            case ("request", "size"):
                return not adapter.sends_bodies and not self.request_size
            case ("request", "headers", name):
                headers = self.hands_on(adapter).headers
                return name in WITHHELD_HEADERS or (headers is not None and name not in headers)
            case ("context", *_):
                return True
            case _:
                return ".".join(path) in UNCARRIED_FACTS

    @property
    def facts(self) -> dict[str, str]:
        """The header of each fact that has one, by the key of the fact."""
        named = {one.name: getattr(self, one.name) for one in fields(self) if one.type == "str"}
        return {key: header for key, header in named.items() if header}


# ── Headers ───────────────────────────────────────────────────────────────────────────────────


def collect_headers(raw: RawHeaderPairs) -> HeaderValues:
    """Collect all values of each name; bytes that are not UTF-8 become surrogates."""
    found: dict[str, tuple[str, ...]] = {}
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), value.decode("utf-8", "surrogateescape")
        found[key] = (*found[key], text) if key in found else (text,)
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
        raise header_error(
            name, "is too long or has invisible characters", "send at most 4,096 visible characters in UTF-8"
        )
    return value


def header_error(name: str, why: str, hint: str | None = None) -> RequestError:
    return RequestError(f"headers.{name}", f"the header `{name}` {why}", hint)


# ── Facts ─────────────────────────────────────────────────────────────────────────────────────


def parse_word(name: str, value: str) -> str:
    """Return a single value, which must not contain a comma, because gateways join repeated headers with commas. Raises
    RequestError.
    """
    if "," in value:
        raise header_error(name, "contains a comma, as if it were repeated")
    return value


def parse_list(name: str, value: str) -> list[str]:
    return [one for one in (part.strip() for part in value.split(",")) if one]


def parse_scopes(name: str, value: str) -> list[str]:
    """Split scopes at spaces, as in OAuth. Raises RequestError."""
    return parse_word(name, value).split()


def parse_time_or_seconds(name: str, value: str) -> str | datetime:
    """Return a time as written, or parse seconds since 1970, which tokens use. Raises RequestError for a comma."""
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
