"""Structure checks of raw trees. A missing or misspelt member is a mistake of the caller, and is reported
by its name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from policyengine.diagnostics.suggest import did_you_mean
from policyengine.runtime.values import Invalid, Unknown, coerce_id, describe_raw_value


class RequestError(Exception):
    """The error for a malformed question. No decision was made, and the caller must treat the question as denied.
    `member` is the place of the problem (`user.roles`; empty for the whole question), `message` describes the problem,
    and `hint` says how to fix it.
    """

    def __init__(self, member: str, message: str, hint: str | None = None) -> None:
        self.member = member
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message} ({hint})")


def get_object(raw: object, member: str) -> Mapping[str, object] | None:
    """Return the object; None if it is missing. Raises RequestError."""
    match raw:
        case None:
            return None
        case dict():
            return raw
        case _:
            raise wrong_type_error(raw, member, "an object")


def iterate_items(raw: object, member: str) -> Iterator[tuple[str, object]]:
    """Yield the items of a list with their names (`entities[0]`); nothing if it is missing. Raises RequestError."""
    match raw:
        case None:
            return
        case tuple():
            yield from ((f"{member}[{index}]", item) for index, item in enumerate(raw))
        case _:
            raise wrong_type_error(raw, member, "a list")


def get_text(raw: object, member: str) -> str:
    """Return a required text. Raises RequestError, also if it is empty."""
    match raw:
        case None | "":
            raise RequestError(member, f"`{member}` is missing")
        case str():
            return raw
        case _:
            raise wrong_type_error(raw, member, "a string")


def get_id(raw: object, member: str) -> str:
    text = coerce_id(get_text(raw, member), member)
    if isinstance(text, Unknown):
        raise RequestError(member, f"`{member}` is {', '.join(cause.why for cause in text.causes)}")
    return text


def get_flag(raw: object, member: str, default: bool) -> bool:
    match raw:
        case None:
            return default
        case bool():
            return raw
        case _:
            raise wrong_type_error(raw, member, "true or false")


def check_members(given: Mapping[str, object], allowed: Collection[str], member: str, hint: str | None = None) -> None:
    """Check that all members are allowed. `hint` is for names that resemble no allowed name. Raises RequestError."""
    for name in given:
        if name not in allowed:
            full = f"{member}.{name}" if member else name
            raise RequestError(full, f"unknown member `{quote_input(full)}`", did_you_mean(name, allowed) or hint)


def quote_input(text: str) -> str:
    """Return user input for a message, on one line of at most 100 characters."""
    shown = "".join(char if char.isprintable() else "?" for char in text[:100])
    return shown if len(text) <= 100 else shown + "…"


def wrong_type_error(raw: object, member: str, expected: str) -> RequestError:
    got = raw.why if isinstance(raw, Invalid) else describe_raw_value(raw)
    return RequestError(member, f"`{quote_input(member)}` must be {expected}, got {got}")
