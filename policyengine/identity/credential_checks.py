"""The protocols of credential checks, which the authenticator calls and `verify/` and `proof/` implement."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from policyengine.identity.verified import ConfirmedKey, ProofContext, TokenPrincipal, VerifiedToken
from policyengine.runtime.credentials import Credentials


class TokenCheck(Protocol):
    """A verifier of tokens of every kind. A call may wait for an issuer, for a bounded time."""

    def verify(self, raw: str, now: int) -> VerifiedToken:
        """Verify a token. Raises CredentialError."""
        ...

    def verify_txn(self, raw: str, now: int) -> VerifiedToken:
        """Verify a transaction token. Raises CredentialError."""
        ...

    def authentic(self, raw: str, now: int) -> VerifiedToken:
        """Verify only that the issuer signed the token, or reports it as active, whatever its kind, audience and
        expiry. Use up nothing. Raises CredentialError."""
        ...

    def taking(self, issuer: str, audiences: Collection[str]) -> TokenCheck:
        """Return a copy that accepts tokens of this issuer for any of these audiences."""
        ...


class PrincipalReader(Protocol):
    def __call__(self, token: VerifiedToken) -> TokenPrincipal:
        """Return the agent, the user and the chain that a token names. Raises CredentialError."""
        ...


class BindingCheck(Protocol):
    def __call__(
        self,
        credentials: Credentials,
        request: ProofContext,
        token: VerifiedToken | None,
        now: int,
        recognizes: Callable[[str], bool] | None = None,
    ) -> ConfirmedKey:
        """Return the keys that the presenter proved for this request; `token` may require one of them.

        `recognizes` returns whether a thumbprint belongs to a known client. Proofs without a token, made with keys that
        are not recognized, are remembered only up to a bounded number. Raises CredentialError, StoreError.
        """
        ...


class TokenlessCheck(Protocol):
    def __call__(
        self, credentials: Credentials, request: ProofContext, now: int
    ) -> tuple[VerifiedToken, TokenPrincipal, ConfirmedKey] | None:
        """Verify a credential that is not a token: a certificate, a message signature or an API key. Return None if the
        request has none of these. Raises CredentialError, StoreError.
        """
        ...


class AttestationCheck(Protocol):
    def __call__(self, raw: str, token: VerifiedToken, binding: ConfirmedKey, now: int) -> Mapping[str, object]:
        """Return the facts of an attestation. Raises CredentialError."""
        ...

    def authentic(self, raw: str, now: int) -> VerifiedToken:
        """Verify only the attester's signature, not the validity, and use up no nonce. Raises CredentialError."""
        ...


class OwnIssuer(Protocol):
    """This server as an issuer; a change of its keys takes effect within a second."""

    issuer: str

    def has(self, kid: object, now: int) -> bool:
        """Return whether the key that signed an already verified token is still valid. Does not block."""
        ...


@dataclass(frozen=True, slots=True)
class CredentialChecks:
    """The checks that the authenticator calls; without `attests`, attestations are refused."""

    tokens: TokenCheck
    reads: PrincipalReader
    binds: BindingCheck
    presents: TokenlessCheck
    attests: AttestationCheck | None = None
