"""Authentication of questions: replaces raw credentials with the facts that they prove, or with the reason
of a refusal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from policyengine.engine.failure_counter import FailureCounter
from policyengine.engine.question import Question, normalize_facts, parse_request
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.verified import PRINCIPAL_ROOTS, PROVABLE_ROOTS, CredentialRefusal, VerifiedCredential
from policyengine.identity.verified import ProofContext as Presented
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.credentials import Credentials
from policyengine.runtime.idempotency import IdempotencyRecord
from policyengine.runtime.idempotent_decision import decode_draft, decode_facts
from policyengine.runtime.pending_facts import pending_outside
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.values import Invalid, MissingValue
from policyengine.stores.base import StoreError

_LOG = logging.getLogger("policyengine")
# Refusals that may be temporary.
TRANSIENT_REFUSALS = frozenset({RefusalCode.PROVIDER.value, RefusalCode.STORE.value, RefusalCode.FAILURE.value})
REPLACED_MEMBERS = frozenset({*PRINCIPAL_ROOTS, "credentials"})


def authenticate(identity: CredentialAuthenticator, question: Question, now: int) -> Question:
    """Return the question with proved facts instead of its credentials and of its claims about the caller. Raises
    RequestError.

    A refused credential becomes the fact `credential.refused`. `now` is in seconds since 1970. This function may wait
    for an issuer, unlike `CredentialAuthenticator.at_once`.
    """
    members = question.members
    if members is not None:
        raw = members.get("credentials")
        if raw is None and not identity.only_proved:
            return question
        if isinstance(raw, VerifiedCredential | CredentialRefusal):
            facts = recheck_proof(identity, raw, now)
            return Question(question_with_facts(identity, members, facts), is_authenticated=True)
    return Question(authenticate_request(identity, question.request, now), is_authenticated=True)


def question_with_facts(
    identity: CredentialAuthenticator, question: Mapping[str, object], facts: Mapping[str, object]
) -> Request:
    """Parse the question, and return its request with these facts instead of its credentials and its claims about the
    caller. Raises RequestError.
    """
    request = parse_request({name: value for name, value in question.items() if name not in REPLACED_MEMBERS})
    if identity.only_proved:
        request = without_claims(identity, request)
    return request_with_facts(request, normalize_facts(facts))


def recheck_proof(
    identity: CredentialAuthenticator, before: VerifiedCredential | CredentialRefusal, now: int
) -> Mapping[str, object]:
    """Return the facts that were just proved for the same request, or the fact `credential.refused` if the credential
    was refused, has since expired or been revoked, or cannot be looked up among the revoked ones.
    """
    if isinstance(before, CredentialRefusal):
        return {"credential": {"refused": before.refusal.value}}
    ended = RefusalCode.EXPIRED if before.expires <= now else check_revocation(identity, before, now)
    if ended is None:
        return before.facts
    identity.count(ended.value)
    return {"credential": {"refused": ended.value}}


def check_revocation(identity: CredentialAuthenticator, before: VerifiedCredential, now: int) -> RefusalCode | None:
    try:
        return RefusalCode.REVOKED if identity.marks.revoked(before.names, now) else None
    except StoreError:
        return RefusalCode.STORE


def prove_credentials(
    identity: CredentialAuthenticator, facts: Mapping[str, object], now: int
) -> VerifiedCredential | CredentialRefusal:
    """Verify the raw credentials in `facts`, for several questions about one request; return the verified credential or
    the refusal. Raises RequestError.
    """
    known = None if "request" in facts else identity.known(facts["credentials"], now)
    if known is not None:
        return identity.used(known, None, now)
    request = parse_request(facts if "request" in facts or "tool" in facts else {**facts, "tool": {"name": "any"}})
    credentials = request.credentials or Credentials()
    try:
        return identity.prove(credentials, proof_request(request, credentials), now)
    except CredentialError as why:
        log_refusal(identity, why)
        return CredentialRefusal(why.refusal)


def log_refusal(identity: CredentialAuthenticator, why: CredentialError) -> None:
    code = why.refusal.value
    told = f"a credential was refused: {why}"
    identity.telling.tell(logging.INFO, code, told, event="credential_refused", code=code)


def needs_issuer(identity: CredentialAuthenticator, question: Question, now: int) -> bool:
    """Return whether verifying the credentials may need an answer from their issuer. Raises RequestError."""
    if question.is_authenticated:
        return False
    members = question.members
    if members is None:
        credentials = question.request.credentials
        return credentials is not None and identity.known_of(credentials, now) is None
    raw = members.get("credentials")
    if raw is None or isinstance(raw, VerifiedCredential | CredentialRefusal):
        return False
    return identity.known(raw, now) is None


def with_cached_facts(identity: CredentialAuthenticator, question: Question, now: int) -> Request:
    """Return the request with facts that are already known for its credentials, to estimate its size. This decides and
    counts nothing. Raises RequestError.
    """
    members = question.members
    raw = None if members is None else members.get("credentials")
    if members is not None and isinstance(raw, VerifiedCredential | CredentialRefusal):
        return question_with_facts(identity, members, raw.facts if isinstance(raw, VerifiedCredential) else {})
    request = question.request
    known = None if request.credentials is None else identity.known_of(request.credentials, now)
    return request if known is None else request_with_facts(request, normalize_facts(known.facts))


def authenticate_request(identity: CredentialAuthenticator, request: Request, now: int) -> Request:
    credentials = request.credentials
    if credentials is None or credentials.empty:
        request = replace(request, credentials=None)
        if not identity.only_proved:
            return request
        claimed = any(root in request.facts for root in PROVABLE_ROOTS)
        request = without_claims(identity, request)
        if claimed:
            identity.count(RefusalCode.UNPROVED.value)
        return with_refusal(request, RefusalCode.UNPROVED) if claimed else request
    try:
        found = identity.prove(credentials, proof_request(request, credentials), now)
    except CredentialError as why:
        log_refusal(identity, why)
        return with_refusal(request, why.refusal)
    log_claim_mismatches(identity, request.facts, found)
    if identity.only_proved:
        request = without_claims(identity, request)
    return request_with_facts(request, normalize_facts(found.facts))


def without_claims(identity: CredentialAuthenticator, request: Request) -> Request:
    """Return the request without a gateway's claims about the caller: its facts, and the entity rows of agents, users
    and their groups."""
    facts = {name: one for name, one in request.facts.items() if name not in PROVABLE_ROOTS}
    rows = tuple(row for row in request.entities if row.ref.type not in identity.of_who)
    return replace(request, facts=facts, entities=rows, pending=pending_outside(request.pending, PROVABLE_ROOTS))


def with_refusal(request: Request, why: RefusalCode) -> Request:
    return request_with_facts(request, {"credential": {"refused": why.value}})


def request_with_facts(request: Request, facts: Mapping[str, object]) -> Request:
    """Return the request with these facts instead of its own claims about the caller, including pending ones."""
    beside = {name: value for name, value in request.facts.items() if name not in PRINCIPAL_ROOTS}
    pending = pending_outside(request.pending, {*PRINCIPAL_ROOTS, *facts})
    return replace(request, facts={**beside, **facts}, pending=pending, credentials=None)


def refusal_code(request: Request) -> object:
    """Return the code with which the credential was refused, or None if it was not refused."""
    found = request.facts.get("credential")
    return found.get("refused") if isinstance(found, Mapping) else None


def without_credentials(request: Request) -> Request:
    """Return the request without its credentials, which are not verified."""
    return request if request.credentials is None else replace(request, credentials=None)


def with_recorded_facts(request: Request, found: IdempotencyRecord) -> Request:
    """Return the request with the facts that its credentials proved when its idempotency key was first used. If no such
    facts were recorded, only the credentials are removed.
    """
    try:
        kept = b"" if found.draft is None else decode_draft(found.draft).proved
        facts = decode_facts(kept)
    except ValueError:
        return without_credentials(request)  # the record is damaged: restoring the decision fails and is logged
    if not kept:
        return without_credentials(request)
    beside = {name: one for name, one in request.facts.items() if name not in PROVABLE_ROOTS}
    pending = pending_outside(request.pending, PROVABLE_ROOTS)
    return replace(request, facts={**beside, **facts}, pending=pending, credentials=None)


def proof_request(request: Request, credentials: Credentials) -> Presented:
    """Return the parts of the request to which a proof of possession can be bound."""
    http = request.facts.get("request")
    given: Mapping[str, object] = http if isinstance(http, Mapping) else {}
    headers = given.get("headers")
    told = headers.items() if isinstance(headers, Mapping) else ()
    texts = {name: value for name, value in told if isinstance(value, str)}
    method = credentials.method or given.get("method")
    method = method if isinstance(method, str) else ""
    return Presented(method, credentials.url, texts, credentials.digests, given.get("ip"), body_size(request, given))


def body_size(request: Request, http: Mapping[str, object]) -> object:
    """Return the body size that the gateway reports, or None if it reports none. True stands for a body of unknown
    size: the request has body facts, although the gateway reports no size or 0.
    """
    size, body = http.get("size"), request.facts.get("body")
    size = None if isinstance(size, MissingValue) else size
    return size or isinstance(body, Invalid) or (isinstance(body, Mapping) and bool(body)) or size


def log_claim_mismatches(
    identity: CredentialAuthenticator, claimed: Mapping[str, object], found: VerifiedCredential
) -> None:
    """Log each `id` and `issuer` that a gateway claims and that differs from the verified credential, which takes
    precedence.
    """
    for root in PRINCIPAL_ROOTS:
        said, proved = claimed.get(root), found.facts.get(root, {})
        for name, value in said.items() if isinstance(said, Mapping) else ():
            if name in ("id", "issuer") and proved.get(name) != value:
                told = f"a gateway's `{root}.{name}` differs from the credential, which takes precedence"
                identity.telling.tell(logging.WARNING, f"{root}.{name}", told)


def reject_raw_credentials(request: Request) -> Request:
    """Return the request. Raises RequestError if it has credentials, because this engine verifies none."""
    if request.credentials is None:
        return request
    hint = "configure `--identity` (docs/identity.md), or send its verified facts as `credential`"
    raise RequestError("credentials", "this server does not verify raw credentials", hint)


class Authenticator:
    """Replaces the credentials of questions with the facts that they prove. It fails closed: an internal error is a
    refusal.
    """

    def __init__(
        self, identity: CredentialAuthenticator, nanoseconds: Callable[[], int], failures: FailureCounter
    ) -> None:
        self.identity, self._nanoseconds, self._failures = identity, nanoseconds, failures

    @property
    def seconds(self) -> int:
        return self._nanoseconds() // 1_000_000_000

    def authenticate_cached(self, members: dict[str, object]) -> dict[str, object] | None:
        """Return the members with cached facts of their credentials, or None if the credentials must be verified."""
        return self.identity.at_once(members, self._nanoseconds() // 1_000_000_000)

    def authenticate(self, question: Question) -> Question:
        """Return the authenticated question. It may wait for an issuer. Raises RequestError."""
        if question.is_authenticated:
            return question
        try:
            members = question.members
            known = None if members is None else self.authenticate_cached(members)
            if known is not None:
                return Question(known, is_authenticated=True)
            return authenticate(self.identity, question, self.seconds)
        except RequestError:
            raise
        except Exception:
            self._failures.add()
            self.identity.count(RefusalCode.FAILURE.value)
            _LOG.exception("a credential could not be verified, and was refused")
            return Question(with_refusal(question.request, RefusalCode.FAILURE), is_authenticated=True)

    def prove(self, facts: Mapping[str, object]) -> Mapping[str, object]:
        """Return the facts of a request with proved facts instead of raw credentials, for several questions about that
        request in this process. Raises RequestError."""
        if isinstance(facts.get("credentials"), VerifiedCredential | CredentialRefusal | None):
            return facts
        return {**facts, "credentials": prove_credentials(self.identity, facts, self.seconds)}

    def needs_issuer(self, question: Question) -> bool:
        """Return whether an answer from an issuer may be needed, which can take a long time. Raises RequestError."""
        return needs_issuer(self.identity, question, self.seconds)

    def with_cached_facts(self, question: Question) -> Request:
        """Return the request with cached facts of its credentials, to estimate its size. Raises RequestError."""
        return with_cached_facts(self.identity, question, self.seconds)
