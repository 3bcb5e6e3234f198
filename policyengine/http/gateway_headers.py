"""What a gateway vouches for in headers: who asks and how, read to a question for the engine.

The gateway takes away what its client sent under these names and sets what it found itself. All of them begin with
`X-Agent-` unless somebody configures others, so that one line takes all of them away. One that is there twice, that is
spelled another way, or that makes no sense is refused: of two values nobody knows which one the gateway set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from policyengine.http.body import OVERRIDE, body_members
from policyengine.http.client_credentials import CERTIFICATES, SENT, credentials_of, url_of
from policyengine.http.client_credentials import FORWARDED as FORWARDED_AUTHORIZATION
from policyengine.http.completeness import ALL, WITHHELD, Adapter, Given, HandsOn, header_facts, unknown_headers
from policyengine.http.form_fields import Field, query_fields
from policyengine.http.method_override import names_method
from policyengine.runtime.header_names import check_spellings
from policyengine.runtime.request import RequestError
from policyengine.runtime.values import Invalid

Raw = Iterable[tuple[bytes, bytes]]
Facts = Mapping[str, Mapping[str, object]]
# A body as far as the gateway sent it. One that came as text is not as its client sent it: the gateway has put other
# characters in place of bytes that are no UTF-8.
Content: TypeAlias = bytes | str

LONGEST_VALUE = 4_096
SECONDS = re.compile(r"[0-9]{1,11}(?:\.[0-9]{1,9})?")
BYTES = re.compile(r"[0-9]{1,15}")
SPIFFE = re.compile(r"spiffe://(?P<domain>[a-z0-9._-]{1,255})/[A-Za-z0-9._/-]{1,1024}")
AS_TEXT = Invalid("the body came as text, not as it was sent (`pack_as_bytes` is not set)")
PARTIAL_BODY = "x-envoy-auth-partial-body"
FORWARDED = ("x-forwarded-method", "x-forwarded-uri", "x-forwarded-host")
# Servers behind us may take another path than that of the request line from these.
ELSEWHERE = ("x-original-url", "x-rewrite-url", "x-original-uri", "x-original-method")
SET_BY_US = ("x-auth-subject", "x-auth-user")
# Names that cannot carry a fact: they say something else, or everybody sets them.
RESERVED = frozenset({*FORWARDED, *ELSEWHERE, *SET_BY_US, "x-request-id", "content-type", "idempotency-key"}) | WITHHELD
# What servers trust or read a body by, and no other spelling may stand in for.
TRUSTED = frozenset({*SENT, *WITHHELD, "content-encoding", "content-type", "x-decision-id", "x-real-ip", "x-would-be"})
# Facts of who asks that may be there although no header says so.
OPTIONAL = ("agent_instance", "agent_groups", "credential_kind", "credential_scopes", "credential_bound")


@dataclass(frozen=True, slots=True)
class Vouched:
    """Which header carries which fact, in lower case; "" for none. `obligations` are kinds that the gateway meets.

    `trust_domains` are those of certificates (`acme.example`), each with the issuer that the policy knows it by.
    `hands_on_…` are the headers that arrive at an adapter whenever its client sends them, or `all`; `bodies` are the
    adapters whose gateway sends every body along, or refuses its request.
    `client_certificate`: the header that tells of the certificate of the client's connection; None: none does, as who
    does not set it passes on what its client says.
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
    request_size: str = ""  # where it is named, the gateway takes it away from clients: an empty body may open a door
    obligations: tuple[str, ...] = ()
    trust_domains: tuple[tuple[str, str], ...] = ()
    client_certificate: str | None = None
    hands_on_forward_auth: tuple[str, ...] = (ALL,)
    hands_on_nginx: tuple[str, ...] = ()
    hands_on_envoy: tuple[str, ...] = ()
    hands_on_envoy_grpc: tuple[str, ...] = (ALL,)
    bodies: tuple[str, ...] = ()

    def hands_on(self, adapter: Adapter) -> HandsOn:
        names: tuple[str, ...] = getattr(self, f"hands_on_{adapter}")
        headers = None if names == (ALL,) else frozenset(names)
        return HandsOn(headers, adapter in self.bodies, joins=adapter in (Adapter.NGINX, Adapter.ENVOY))

    def hides_absence(self, adapter: Adapter, path: tuple[str, ...]) -> bool:
        """Whether nobody who asks by that adapter knows that a fact is not there."""
        hands_on = self.hands_on(adapter)
        match path:
            case ("body", *_):
                return not hands_on.bodies
            case ("request", "size"):
                return not hands_on.bodies and (adapter.sends_bodies or not self.request_size)
            case ("request", "headers", name):
                return not hands_on.shows_absence(name)
            case ("context", *_) | ("agent", "model" | "publisher"):
                return True
            case (root, member) if f"{root}_{member}" in OPTIONAL:
                return not hands_on.shows_absence(getattr(self, f"{root}_{member}"))
            case _:
                return False

    @property
    def facts(self) -> dict[str, str]:
        """Key to header, of those that are taken."""
        named = {one.name: getattr(self, one.name) for one in fields(self) if one.type == "str"}
        return {key: header for key, header in named.items() if header}


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked for, as it stood in the request line."""

    method: str
    uri: str
    host: str | None


# ── Headers ───────────────────────────────────────────────────────────────────────────────────


def given_headers(raw: Raw) -> Given:
    """All values of each name. What is no UTF-8 keeps its bytes, as surrogates."""
    found: dict[str, tuple[str, ...]] = {}
    for name, value in raw:
        key = name.decode("latin-1").lower()
        found[key] = (*found.get(key, ()), value.decode("utf-8", "surrogateescape"))
    return found


def only_value(given: Given, name: str) -> str | None:
    """The value of a header that the gateway sets; None where there is none, or an empty one. Raises RequestError."""
    values = given.get(name, ())
    if len(values) > 1:
        raise refused(name, "came twice", "the gateway must set it in place of what its client sent")
    value = values[0].strip(" \t") if values else ""
    if not value:
        return None
    if len(value) > LONGEST_VALUE or not value.isprintable():
        raise refused(name, "has a value that nobody can read", "visible characters in UTF-8, 4,096 of them at most")
    return value


def refused(name: str, why: str, hint: str | None = None) -> RequestError:
    return RequestError(f"headers.{name}", f"the header `{name}` {why}", hint)


# ── Facts ─────────────────────────────────────────────────────────────────────────────────────


def one_word(name: str, value: str) -> str:
    """Gateways join what came twice with commas, so there is none in a value that stands alone."""
    if "," in value:
        raise refused(name, "has a comma in it, as if it had come twice")
    return value


def listed(name: str, value: str) -> list[str]:
    return [one for one in (part.strip() for part in value.split(",")) if one]


def scopes(name: str, value: str) -> list[str]:
    """As in OAuth: with a space between them."""
    return one_word(name, value).split()


def time_or_seconds(name: str, value: str) -> str | datetime:
    """A time, or the seconds since 1970 that tokens have."""
    if not SECONDS.fullmatch(value):
        return one_word(name, value)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=float(value))


def yes_or_no(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise refused(name, "is neither `true` nor `false`")
    return value == "true"


def number_of_bytes(name: str, value: str) -> int:
    if not BYTES.fullmatch(one_word(name, value)):
        raise refused(name, "is no number of bytes")
    return int(value)


READERS: Mapping[str, Callable[[str, str], object]] = {
    "agent_groups": listed,
    "credential_scopes": scopes,
    "credential_issued_at": time_or_seconds,
    "credential_expires_at": time_or_seconds,
    "credential_bound": yes_or_no,
    "request_size": number_of_bytes,
}


def facts_of_headers(given: Given, names: Vouched) -> dict[str, dict[str, object]]:
    """By root, each as the header of its name says it. Raises RequestError."""
    found: dict[str, dict[str, object]] = {}
    for key, header in names.facts.items():
        value = only_value(given, header)
        if value is not None:
            root, _, member = key.partition("_")
            found.setdefault(root, {})[member] = READERS.get(key, one_word)(header, value)
    return found


def spiffe_facts(principal: str, names: Vouched) -> dict[str, dict[str, object]]:
    """What a certificate that the gateway verified says, where it is a SPIFFE id of a domain that is trusted: which
    agent asks, and that the connection is its own. Another name says nothing."""
    found = SPIFFE.fullmatch(principal)
    issuer = dict(names.trust_domains).get(found["domain"]) if found else None
    if issuer is None:
        return {}
    return {
        "agent": {"id": principal, "issuer": issuer},
        "credential": {"kind": "mtls", "issuer": issuer, "bound": True},
    }


# ── The question ──────────────────────────────────────────────────────────────────────────────


def forwarded_target(given: Given) -> Target:
    """As Caddy and Traefik say it, and nginx as it is configured. Raises RequestError."""
    method, uri, host = (only_value(given, name) for name in FORWARDED)
    if method is None or uri is None:
        missing = FORWARDED[0] if method is None else FORWARDED[1]
        raise refused(missing, "is missing", "the gateway says in it what its client asked for")
    return Target(method, uri, host)


def question_of(
    target: Target,
    given: Given,
    names: Vouched,
    hands_on: HandsOn,
    content: Content | None = None,
    vouched: Facts | None = None,
) -> dict[str, object]:
    """What the engine is asked, in the shape of `/decide`; what nobody saw is pending. `content` is the body as far as
    the gateway sent it, None where it never does; `vouched` is what else it says of who asks. Raises RequestError."""
    ours = (*names.facts.values(), *FORWARDED, *SET_BY_US, *ELSEWHERE, *CERTIFICATES, FORWARDED_AUTHORIZATION)
    check_spellings(given, (*ours, *TRUSTED))
    for name in ELSEWHERE:
        if name in given:
            raise refused(name, "would have some servers take another path", "the gateway takes it away")
    facts: dict[str, dict[str, object]] = {**(vouched or {}), **facts_of_headers(given, names)}  # type: ignore[dict-item]
    body, size = body_and_size(given, hands_on, content, facts.get("request", {}).pop("size", None))
    path, _, query = target.uri.partition("?")
    request = {
        **facts.pop("request", {}),
        "method": target.method,
        "path": path,
        "query": query_of(query),
        "headers": header_facts(given, hands_on, ours),
        **({} if target.host is None else {"host": target.host}),
        **({} if size is None else {"size": size}),
    }
    pending = [
        *([] if body is not None else ["body"]),
        "context",
        *(f"request.{name}" for name in ("host", "ip", "size") if name not in request),
        *unknown_headers(given, hands_on, ours),
        *unsaid(facts, given, names, hands_on),
    ]
    said = {**facts, **({} if body is None else {"body": body}), "pending": pending}
    return {"request": request, **said, "options": {"obligations_supported": list(names.obligations)}}


def unsaid(facts: Facts, given: Given, names: Vouched, hands_on: HandsOn) -> Iterator[str]:
    """What the gateway could know of who asks, and has said in no header: an empty one says that there is nothing."""
    for key in OPTIONAL:
        root, _, member = key.partition("_")
        header = getattr(names, key)
        silent = header == "" or (header not in given and not hands_on.shows_absence(header))
        if root in facts and member not in facts[root] and silent:
            yield f"{root}.{member}"
    if "agent" in facts:
        yield from ("agent.model", "agent.publisher")


def body_and_size(
    given: Given, hands_on: HandsOn, content: Content | None, said: object
) -> tuple[Mapping[str, object] | Invalid | None, object]:
    """The members of the body, none of an empty one, and None where nobody saw it; and its bytes. What the gateway
    has `said` of them counts where it never sends any."""
    if content is None:
        return ({} if said == 0 else None), said
    whole = whole_body(given, content)
    if whole is not None:
        return body_of(given, whole), len(raw_body(whole))
    if content:
        return override_in(given, content), None
    empty = hands_on.bodies and given.get(PARTIAL_BODY, ("false",)) == ("false",)
    return ({}, 0) if empty else (None, None)


def body_of(given: Given, content: Content) -> Mapping[str, object] | Invalid:
    """The members of a whole body, or why nobody can say what is in it, nor what is not."""
    if isinstance(content, str):
        return override_in(given, content) or AS_TEXT
    return body_members(given.get("content-type", ()), given.get("content-encoding", ()), content)


def override_in(given: Given, content: Content) -> Mapping[str, object] | None:
    """What is known of a body that is not read: that it names another method, if it does."""
    return OVERRIDE if names_method(given.get("content-type", ()), raw_body(content)) else None


def with_credentials(
    question: dict[str, object],
    target: Target,
    given: Given,
    *,
    own: bool,
    certificate: str | None,
    content: Content | None = None,
) -> dict[str, object]:
    """The question with what the client brought to prove who it is; `own`: in `Authorization`, as whoever asks needs no
    token of ours. `certificate`: the header that tells of its certificate. `content`: the body, as far as the gateway
    sent it. Raises RequestError."""
    url, whole = url_of(given, target.host, target.uri), whole_body(given, content)
    signed = None if whole is None else raw_body(whole)
    found = credentials_of(given, method=target.method, url=url, own=own, certificate=certificate, content=signed)
    return {**question, "credentials": found} if found else question


def whole_body(given: Given, content: Content | None) -> Content | None:
    """The body where the gateway says that this is all of it. Without a word of it none may have been sent, or only
    its beginning: then nobody saw it."""
    return content or None if given.get(PARTIAL_BODY) == ("false",) else None


def raw_body(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


def query_of(text: str) -> dict[str, Field]:
    """By name. Raises RequestError."""
    found = query_fields(text)
    if isinstance(found, Invalid):
        raise RequestError("request.query", f"the query has {found.why}")
    return found
