"""Verified credentials: the token, its principal, its confirmed keys, and the facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policyengine.runtime.credential_errors import RefusalCode
from policyengine.vocabulary import CREDENTIAL_ROOTS

Seconds = int  # seconds since 1970

# A credential proves these facts completely or not at all; a gateway's own statements about them are then ignored.
PRINCIPAL_ROOTS = ("agent", "user", "chain", "credential")
PROVABLE_ROOTS = (*PRINCIPAL_ROOTS, *(root for root in CREDENTIAL_ROOTS if root not in PRINCIPAL_ROOTS))
# Members of a question with which a gateway could describe the agent or user.
PRINCIPAL_MEMBERS = frozenset(PRINCIPAL_ROOTS)
PROVABLE_MEMBERS = frozenset({*PROVABLE_ROOTS, "entities"})
REQUEST_FACT_PREFIXES = ("request.", "body", "args", "context")  # facts that no credential proves


@dataclass(frozen=True, slots=True)
class ProofContext:
    """The request that a proof must match. `headers` are in lower case; `url` is None if unknown. `digests` are digests
    of the whole body, by algorithm, if the gateway passed them. `ip` is the client's address, and `size` the number of
    bytes of the body, as the gateway reports them.
    """

    method: str
    url: str | None
    headers: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, bytes] = field(default_factory=dict)
    ip: object = None
    size: object = None


@dataclass(frozen=True, slots=True)
class SingleUse:
    """A credential that is accepted once: the name of its replay mark, and the time until which to keep the mark."""

    name: str
    until: Seconds


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token that its issuer signed, or reported as active. Nothing about its presenter is proved yet.

    `kind` is the value of `credential.kind`; `issuer` the name in the policy; `digest` the SHA-256 of the token as
    sent; `expires` the time when it expires. `late` means that it has expired by its own `exp` but is accepted within
    the clock leeway; no new token may derive from it. `signed` is the SHA-256 of the signed part: some signatures have
    several valid spellings, and the token stays the same. `single_use` is set if the token is accepted once. `key` is
    the agent's own key, if no issuer is involved: the RFC 7638 thumbprint of its signing or certificate key, or for a
    static key its digest as in the file of keys, `sha256:…`.
    """

    kind: str
    issuer: str
    claims: Mapping[str, object] = field(repr=False)
    header: Mapping[str, object] = field(repr=False)
    digest: bytes = field(repr=False)
    expires: Seconds
    signed: bytes | None = field(default=None, repr=False)
    single_use: SingleUse | None = None
    key: str | None = None
    late: bool = False


@dataclass(frozen=True, slots=True)
class ConfirmedKey:
    """The keys that the presenter proved for this request: RFC 7638 thumbprint of the key (`jkt`) and SHA-256 of the
    certificate (`x5t`), both in base64url; None if not proved. `until` is the time when the certificate expires; `key`
    is the RFC 7638 thumbprint of its key, if the gateway reports more than its digest.
    """

    jkt: str | None = None
    x5t: str | None = None
    until: Seconds | None = None
    key: str | None = None


UNBOUND = ConfirmedKey()


@dataclass(frozen=True, slots=True)
class Hop:
    """An agent that delegated the work. A value of None means that the token does not state it."""

    agent: str
    issuer: str
    issued_at: Seconds | None = None
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TokenPrincipal:
    """The agent that presents a credential, the user for whom it acts, and the chain before it: `hops` from the first
    agent to the agent before the presenter.

    `scopes` is None if the credential does not state scopes. `task` holds the facts of the root `task`. `subject` is
    the principal that `sub` names, if the issuer names it differently elsewhere. `opener` is the agent that opened the
    task, `issuer/agent`, if the token says so.
    """

    agent: str | None
    user: str | None
    hops: tuple[Hop, ...] = ()
    scopes: tuple[str, ...] | None = None
    instance: str | None = None
    groups: tuple[str, ...] | None = None
    task: Mapping[str, object] | None = None
    subject: str | None = None
    opener: str | None = None


@dataclass(frozen=True, slots=True)
class CredentialRefusal:
    """The refusal of a credential, in place of `VerifiedCredential`, for several questions about one request."""

    refusal: RefusalCode


@dataclass(frozen=True, slots=True)
class VerifiedCredential:
    """The proved facts by root, as in a question; valid until `expires` or until one of `names` is revoked.

    `names` are `token:…`, `jti:issuer/…`, `agent:issuer/…`, `user:issuer/…`, `key:…`, `task:issuer/…`, `own-task:…`.
    `reusable` says whether one proof suffices for many requests; otherwise each request brings its own. `watched` are
    those of `names` that sharing detection watches, and `presenter` is the principal that it compares. `own_key` is
    this server's key that signed the token. `single_use` is set if the credential is accepted once. `own_task` is the
    one of `names` with which the presenter can end its task.
    """

    facts: dict[str, dict[str, object]]
    expires: Seconds
    names: frozenset[str]
    fingerprint: str
    reusable: bool = True
    watched: tuple[str, ...] = ()
    presenter: str = ""
    own_key: str | None = None
    single_use: SingleUse | None = None
    own_task: str | None = None
