"""From a question that brings raw credentials to one that says what they prove, or that they were refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from policyengine.engine.request_input import Identified, Question, cleaned, read
from policyengine.identity.authenticator import Identity
from policyengine.identity.verified import PROVABLE, WHO, Proved, Unproved
from policyengine.identity.verified import Request as Presented
from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.runtime.credentials import Credentials
from policyengine.runtime.idempotency_key import Found
from policyengine.runtime.idempotent_decision import draft_of, facts_of
from policyengine.runtime.request import Request, RequestError, pending_beside
from policyengine.runtime.values import Invalid, Missing
from policyengine.stores.base import StoreError

PASSING = frozenset({Refusal.PROVIDER.value, Refusal.STORE.value, Refusal.FAILURE.value})  # it may be otherwise later
DROPPED = frozenset({*WHO, "credentials"})


def identified(identity: Identity, question: Question, now: int) -> Question:
    """The same question with facts that were proved in place of its credentials, and of what it says itself of who
    asks. A credential that was refused is the fact `credential.refused`. Raises RequestError.

    `now` in seconds since 1970. It may wait for an issuer: what was proved before, `Identity.at_once` knows.
    """
    if isinstance(question, Mapping):
        raw = question.get("credentials")
        if raw is None and not identity.only_proved:
            return question
        if isinstance(raw, Proved | Unproved):
            return with_facts(identity, question, looked_at(identity, raw, now))
    return proved(identity, read(question), now)


def with_facts(identity: Identity, question: Mapping[str, object], facts: Mapping[str, object]) -> Request:
    """Raises RequestError."""
    request = read({name: value for name, value in question.items() if name not in DROPPED})
    if identity.only_proved:
        request = nothing_claimed(identity, request)
    return with_proved(request, cleaned(facts))


def looked_at(identity: Identity, before: Proved | Unproved, now: int) -> Mapping[str, object]:
    """What was proved a moment ago for the same request, unless it has ended since."""
    if isinstance(before, Unproved):
        return {"credential": {"refused": before.refusal.value}}
    ended = Refusal.EXPIRED if before.expires <= now else taken_back(identity, before, now)
    if ended is None:
        return before.facts
    identity.count(ended.value)
    return {"credential": {"refused": ended.value}}


def taken_back(identity: Identity, before: Proved, now: int) -> Refusal | None:
    try:
        return Refusal.REVOKED if identity.marks.revoked(before.names, now) else None
    except StoreError:
        return Refusal.STORE


def proof_of(identity: Identity, facts: Mapping[str, object], now: int) -> Proved | Unproved:
    """What the raw credentials among the facts prove, for several questions about one request. Raises RequestError."""
    request = read(facts if "request" in facts or "tool" in facts else {**facts, "tool": {"name": "any"}})
    credentials = request.credentials or Credentials()
    try:
        return identity.prove(credentials, presented(request, credentials), now)
    except Refused as why:
        return Unproved(why.refusal)


def awaited(identity: Identity, question: Question, now: int) -> bool:
    """Whether nobody knows yet what the credentials prove that it brings."""
    match question:
        case Identified():
            return False
        case Request():
            found = question.credentials
            return found is not None and identity.known_of(found, now) is None
        case Mapping():
            raw = question.get("credentials")
            return raw is not None and not isinstance(raw, Proved | Unproved) and identity.known(raw, now) is None
        case _:
            return True


def with_known(identity: Identity, question: Question, now: int) -> Question:
    """The question with the facts that its credentials are known to prove, to see how large it is: nothing is decided
    by them, and nothing is counted. Raises RequestError."""
    match question:
        case Request() if question.credentials is not None:
            known = identity.known_of(question.credentials, now)
            return question if known is None else with_proved(question, cleaned(known.facts))
        case Mapping():
            raw = question.get("credentials")
            known = raw if isinstance(raw, Proved) else None if raw is None else identity.known(raw, now)
            return question if known is None else with_facts(identity, question, known.facts)
        case _:
            return question


def proved(identity: Identity, request: Request, now: int) -> Request:
    credentials = request.credentials
    if credentials is None or credentials.empty:
        request = replace(request, credentials=None)
        if not identity.only_proved:
            return request
        claimed = any(root in request.facts for root in PROVABLE)
        request = nothing_claimed(identity, request)
        if claimed:
            identity.count(Refusal.UNPROVED.value)
        return refused(request, Refusal.UNPROVED) if claimed else request
    try:
        found = identity.prove(credentials, presented(request, credentials), now)
    except Refused as why:
        code = why.refusal.value
        told = f"a credential was refused: {why}"
        identity.telling.tell(logging.INFO, code, told, event="credential_refused", code=code)
        return refused(request, why.refusal)
    tell_differences(identity, request.facts, found)
    if identity.only_proved:
        request = nothing_claimed(identity, request)
    return with_proved(request, cleaned(found.facts))


def nothing_claimed(identity: Identity, request: Request) -> Request:
    """Without what a gateway says of who asks: facts, and rows of entities that an agent or a user is or is in."""
    facts = {name: one for name, one in request.facts.items() if name not in PROVABLE}
    rows = tuple(row for row in request.entities if row.ref.type not in identity.of_who)
    return replace(request, facts=facts, entities=rows, pending=pending_beside(request.pending, PROVABLE))


def refused(request: Request, why: Refusal) -> Request:
    return with_proved(request, {"credential": {"refused": why.value}})


def with_proved(request: Request, facts: Mapping[str, object]) -> Request:
    """These facts in place of all that it says itself of who asks, be it that something is pending."""
    beside = {name: value for name, value in request.facts.items() if name not in WHO}
    pending = pending_beside(request.pending, {*WHO, *facts})
    return replace(request, facts={**beside, **facts}, pending=pending, credentials=None)


def refusal_of(request: Request) -> object:
    """The code with which its credential was refused, if it was."""
    found = request.facts.get("credential")
    return found.get("refused") if isinstance(found, Mapping) else None


def unproved(request: Request) -> Request:
    """Nobody looked at its credentials, and nobody will."""
    return request if request.credentials is None else replace(request, credentials=None)


def proved_then(request: Request, found: Found) -> Request:
    """The request with what its credentials proved when it was decided by the same key."""
    try:
        kept = b"" if found.draft is None else draft_of(found.draft).proved
        facts = facts_of(kept)
    except ValueError:
        return unproved(request)  # who answers by it fails, and says so
    if not kept:
        return unproved(request)
    beside = {name: one for name, one in request.facts.items() if name not in PROVABLE}
    pending = pending_beside(request.pending, PROVABLE)
    return replace(request, facts={**beside, **facts}, pending=pending, credentials=None)


def presented(request: Request, credentials: Credentials) -> Presented:
    """Of the request what a proof is about."""
    http = request.facts.get("request")
    given: Mapping[str, object] = http if isinstance(http, Mapping) else {}
    headers = given.get("headers")
    told = headers.items() if isinstance(headers, Mapping) else ()
    texts = {name: value for name, value in told if isinstance(value, str)}
    method = credentials.method or given.get("method")
    method = method if isinstance(method, str) else ""
    return Presented(method, credentials.url, texts, credentials.digests, given.get("ip"), size_of(request, given))


def size_of(request: Request, http: Mapping[str, object]) -> object:
    """As the gateway says; True where it says nothing, or 0, and told what is in the body all the same."""
    size, body = http.get("size"), request.facts.get("body")
    size = None if isinstance(size, Missing) else size
    return size or isinstance(body, Invalid) or (isinstance(body, Mapping) and bool(body)) or size


def tell_differences(identity: Identity, claimed: Mapping[str, object], found: Proved) -> None:
    """What a gateway claims and the credential says otherwise is not taken, and the operator is told."""
    for root in WHO:
        said, proved = claimed.get(root), found.facts.get(root, {})
        for name, value in said.items() if isinstance(said, Mapping) else ():
            if name in ("id", "issuer") and proved.get(name) != value:
                told = f"a gateway's `{root}.{name}` is not what the credential says, which counts"
                identity.telling.tell(logging.WARNING, f"{root}.{name}", told)


def no_identity(request: Request) -> Request:
    """Raises RequestError for credentials that nobody verifies here."""
    if request.credentials is None:
        return request
    hint = "set up `--identity` (docs/identity.md), or send what is known of it as `credential`"
    raise RequestError("credentials", "raw credentials are not verified here", hint)
