"""Checks of a credential, as protocols: what the authenticator asks, and what `verify/` and `proof/` implement."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from policyengine.identity.verified import ConfirmedKey, ProofContext, TokenPrincipal, VerifiedToken
from policyengine.runtime.credentials import Credentials


class TokenCheck(Protocol):
    """Tokens of every kind that stand for themselves. May wait for an issuer, for a bounded time."""

    def verify(self, raw: str, now: int) -> VerifiedToken:
        """Raises CredentialError."""
        ...

    def verify_txn(self, raw: str, now: int) -> VerifiedToken:
        """A transaction token. Raises CredentialError."""
        ...

    def authentic(self, raw: str, now: int) -> VerifiedToken:
        """What its issuer signed, or says that it is active: of whatever kind it is, for whomever, whether it holds or
        not. It uses nothing up. Raises CredentialError."""
        ...

    def taking(self, issuer: str, audiences: Collection[str]) -> TokenCheck:
        """The same that take what this issuer signed for any of these."""
        ...


class PrincipalReader(Protocol):
    def __call__(self, token: VerifiedToken) -> TokenPrincipal:
        """Who presents it, for whom, through whom. Raises CredentialError."""
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
        """What of the presenter's keys was proved for this request; `token` may demand it. `recognizes`: whether a
        thumbprint is that of a known client; of other keys that come without a token not many are remembered. Raises
        CredentialError, StoreError."""
        ...


class TokenlessCheck(Protocol):
    def __call__(
        self, credentials: Credentials, request: ProofContext, now: int
    ) -> tuple[VerifiedToken, TokenPrincipal, ConfirmedKey] | None:
        """A credential that is no token: a certificate, a signature of the message, an API key. Raises
        CredentialError."""
        ...


class AttestationCheck(Protocol):
    def __call__(self, raw: str, token: VerifiedToken, binding: ConfirmedKey, now: int) -> Mapping[str, object]:
        """The facts of an attestation. Raises CredentialError."""
        ...

    def authentic(self, raw: str, now: int) -> VerifiedToken:
        """What its attester signed, whether it holds or not. It uses nothing up. Raises CredentialError."""
        ...


class OwnIssuer(Protocol):
    """Our own issuer, whose keys are here: what becomes of one is known within a second."""

    issuer: str

    def has(self, kid: object, now: int) -> bool:
        """Whether a key that signed what was verified before still counts. Quick, and waits for nobody."""
        ...


@dataclass(frozen=True, slots=True)
class CredentialChecks:
    """What the front asks; without `attests` an attestation is refused."""

    tokens: TokenCheck
    reads: PrincipalReader
    binds: BindingCheck
    presents: TokenlessCheck
    attests: AttestationCheck | None = None
