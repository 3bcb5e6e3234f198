"""The errors of a sign-in, with codes for the log and messages for the person who signs in."""

from __future__ import annotations

from enum import StrEnum


class LoginRefusal(StrEnum):
    """The reason why a person is not signed in; the value is the code in the log."""

    STATE = "state"
    EXPIRED = "expired"
    REPLAYED = "replayed"
    CANCELLED = "cancelled"
    PROVIDER = "provider"
    ISSUER = "issuer"
    CODE = "code"
    TOKEN = "token"
    NONCE = "nonce"
    CLIENT = "client"
    USER = "user"
    LINK = "link"
    THROTTLED = "throttled"
    UNRECORDED = "unrecorded"


LOGIN_MESSAGES = {
    LoginRefusal.STATE: "this sign-in was not started in this browser",
    LoginRefusal.EXPIRED: "this sign-in took too long",
    LoginRefusal.REPLAYED: "this sign-in was already completed",
    LoginRefusal.CANCELLED: "the identity provider did not sign you in",
    LoginRefusal.PROVIDER: "the identity provider cannot be reached, or gave an invalid answer",
    LoginRefusal.ISSUER: "the answer comes from another identity provider",
    LoginRefusal.CODE: "the identity provider does not accept the code",
    LoginRefusal.TOKEN: "the ID token is not valid",
    LoginRefusal.NONCE: "the ID token belongs to another sign-in",
    LoginRefusal.CLIENT: "the ID token is for another application",
    LoginRefusal.USER: "the ID token does not name a user",
    LoginRefusal.LINK: "this link is wrong, was already used, or is older than five minutes",
    LoginRefusal.THROTTLED: "there were too many attempts to sign in; wait a minute",
    LoginRefusal.UNRECORDED: "the sign-in could not be recorded in the decision log",
}


class LoginError(Exception):
    """The error for a person who is not signed in. `detail` is for the log; it contains no secret."""

    def __init__(self, refusal: LoginRefusal, detail: str = "") -> None:
        super().__init__(detail or LOGIN_MESSAGES[refusal])
        self.refusal, self.detail = refusal, detail

    @property
    def message(self) -> str:
        return LOGIN_MESSAGES[self.refusal]
