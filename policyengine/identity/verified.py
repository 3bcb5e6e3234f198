"""What credentials prove: a token that was verified, whoever it speaks of, and the facts that come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policyengine.runtime.credential_errors import RefusalCode
from policyengine.vocabulary import CREDENTIAL_ROOTS

Seconds = int  # since 1970

# What a credential proves all of, or nothing: a claim of a gateway beside it does not count.
PRINCIPAL_ROOTS = ("agent", "user", "chain", "credential")
PROVABLE_ROOTS = (*PRINCIPAL_ROOTS, *(root for root in CREDENTIAL_ROOTS if root not in PRINCIPAL_ROOTS))
# Where a gateway could say something of who asks.
PRINCIPAL_MEMBERS = frozenset(PRINCIPAL_ROOTS)
PROVABLE_MEMBERS = frozenset({*PROVABLE_ROOTS, "entities"})
REQUEST_FACT_PREFIXES = ("request.", "body", "args", "context")  # how facts begin that no credential proves


@dataclass(frozen=True, slots=True)
class ProofContext:
    """Of the request that a proof has to be about. `headers` are in lower case; `url` is None where nobody said it.
    `digests`: of its body, by algorithm, where somebody saw all of it. `ip`: where it came from, and `size`: bytes in
    its body, as far as the gateway says so."""

    method: str
    url: str | None
    headers: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, bytes] = field(default_factory=dict)
    ip: object = None
    size: object = None


@dataclass(frozen=True, slots=True)
class SingleUse:
    """That a credential counts for the one who presents it first: the name of its mark, and until when that is kept."""

    name: str
    until: Seconds


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token that its issuer signed, or said to be active. Nothing about the one who presents it is proved yet.

    `kind` is the value of `credential.kind`; `issuer` the name in the policy; `digest` SHA-256 of the token as it was
    sent; `expires` when it ends; `late` that it has ended by its own word, and counts a little longer as clocks differ:
    nothing new rests on it. `signed` is SHA-256 of what its issuer signed: some signatures can be spelled anew by
    anybody, and the token stays the same. `single_use`: what it proves counts once.
    `key`: the agent's own, where no issuer stands between: RFC 7638 thumbprint of the one it signed by, or of that of
    its certificate; of a static key its digest as the file of keys has it, `sha256:…`.
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
    """The key that the presenter proved to have, for this request: RFC 7638 thumbprint of the key (`jkt`), SHA-256 of
    the certificate (`x5t`), both in base64url; None for what was not proved. `until`: when the certificate ends; `key`:
    RFC 7638 thumbprint of its key, where the gateway told more than its digest."""

    jkt: str | None = None
    x5t: str | None = None
    until: Seconds | None = None
    key: str | None = None


UNBOUND = ConfirmedKey()


@dataclass(frozen=True, slots=True)
class Hop:
    """An agent that handed the work on. What is None is not said."""

    agent: str
    issuer: str
    issued_at: Seconds | None = None
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TokenPrincipal:
    """Who presents a credential, for whom, through whom: `hops` from the first agent to the one before the presenter.

    `scopes` None: the credential says nothing of scopes. `task` is the root of facts of that name. `subject`: who
    its `sub` is, where a server calls the agent or the user there by a name of its own. `opener`: the agent that opened
    the task, `issuer/agent`, where the token says so.
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
    """What was refused, and why: in place of `VerifiedCredential`, for several questions about one request."""

    refusal: RefusalCode


@dataclass(frozen=True, slots=True)
class VerifiedCredential:
    """Facts by root, as a question has them. They stand until `expires`, or until one of `names` is revoked.

    `names`: `token:…`, `jti:issuer/…`, `agent:issuer/…`, `user:issuer/…`, `key:…`, `task:issuer/…`, `own-task:…`.
    `reusable`: that they were proved once is enough; else each request brings a proof of its own. `watched`: by which
    of `names` it is seen whether several share it, and `presenter` who it is that presents it. `own_key`: the one of
    our own that signed the token. `single_use`: it counts for one request alone. `own_task`: the one of `names` by
    which whoever presents it ends its task.
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
