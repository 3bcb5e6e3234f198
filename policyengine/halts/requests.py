"""Checks what operators write: the scope of a halt, its reason and its end."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict
from unicodedata import category

from policyengine.diagnostics.suggest import did_you_mean
from policyengine.halts.errors import HaltError
from policyengine.halts.places import parse_place
from policyengine.kernel import Kernel
from policyengine.runtime.halts import SCOPE_MEMBERS, UNREAD_ID, Halt, fold_issuer, fold_name, issuer_spellings
from policyengine.runtime.structure_checks import quote_input
from policyengine.time_formats import format_duration, format_epoch_seconds, parse_duration, parse_time

MAX_HALT_TIME: Final = timedelta(days=366)
MAX_REASON_LENGTH: Final = 500  # characters
MAX_NAME_LENGTH: Final = 1_000  # characters
SCOPE_HINT: Final = f"name at least one of {', '.join(f'`{name}`' for name in SCOPE_MEMBERS)}, or `everything`"
ID_BYTES: Final = 6
ID_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class HaltScope(TypedDict, total=False):
    """Which requests a halt covers: those that match each of these members that is not None."""

    agent: str | None
    issuer: str | None
    user: str | None
    chain_root: str | None
    task: str | None
    tool: str | None
    place: str | None
    package: str | None


def make_halt(scope: HaltScope, *, everything: bool, reason: str, end: timedelta | datetime, by: str, now: int) -> Halt:
    """Return a new halt with an id of its own. `now` is in seconds since 1970. Raises HaltError."""
    if unknown := set(scope).difference(SCOPE_MEMBERS):
        raise HaltError(f"a halt has no `{quote_input(min(unknown))}`", SCOPE_HINT)
    names: dict[str, Any] = {name: text for name, text in scope.items() if text is not None}
    until = check_end(end, now)
    halt = Halt(secrets.token_hex(ID_BYTES), reason.strip(), now, until, by=by, everything=everything, **names)
    check_halt(halt)
    return halt


def check_halt(halt: Halt) -> None:
    """Check the scope and the texts of a halt. Raises HaltError."""
    names = halt.scope
    if not ID_PATTERN.fullmatch(halt.id) or halt.id == UNREAD_ID:
        raise HaltError("the id of the halt is not valid", "write 1 to 64 letters, digits, `.`, `_` or `-`")
    if halt.everything and names:
        raise HaltError(f"a halt of everything has no `{next(iter(names))}`", "omit one of them")
    if not halt.everything and not names:
        raise HaltError("the halt covers nothing", SCOPE_HINT)
    for name, text in names.items():
        check_text(f"`{name}`", text, MAX_NAME_LENGTH)
    if not halt.reason:
        raise HaltError("a halt needs a reason, which callers see")
    check_text("the reason", halt.reason, MAX_REASON_LENGTH)
    check_text("the operator's name", halt.by or "-", MAX_NAME_LENGTH)
    if halt.place is not None:
        parse_place(halt.place)


def check_lift_reason(reason: str) -> None:
    """Check the reason for lifting a halt. Raises HaltError."""
    if not reason.strip():
        raise HaltError("lifting a halt needs a reason", f"write 1 to {MAX_REASON_LENGTH:,} characters as the `reason`")
    check_text("the reason", reason, MAX_REASON_LENGTH)


def check_text(what: str, text: str, most: int) -> None:
    """Check the length and the characters of a text. Raises HaltError."""
    if not text.strip() or len(text) > most:
        raise HaltError(f"{what} has {len(text):,} characters", f"write 1 to {most:,} characters")
    if any(category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise HaltError(f"{what} contains a control character or a line break")


def check_end(end: timedelta | datetime, now: int) -> int:
    """Return the end of a halt in seconds since 1970. Raises HaltError."""
    if isinstance(end, datetime):
        if end.tzinfo is None:
            raise HaltError("the end of the halt has no time zone", "write it as `2026-12-01T00:00:00Z`")
        until = int(end.timestamp())
    else:
        until = now + int(end.total_seconds())
    if until <= now:
        raise HaltError(f"the end {format_epoch_seconds(until)} is in the past", "choose a later end")
    if until - now > MAX_HALT_TIME.total_seconds():
        hint = "choose an earlier end; what must never happen belongs in the policy, as a guard"
        raise HaltError(f"a halt lasts at most {format_duration(MAX_HALT_TIME)}", hint)
    return until


def parse_end(text: str) -> timedelta | datetime:
    """Parse a duration (`2h`) or a time (`2026-12-01T00:00:00Z`). Raises HaltError."""
    lasting = parse_duration(text)
    found = parse_time(text) if lasting is None else lasting
    if found is None:
        raise HaltError(
            f"`{quote_input(text)}` is neither a duration nor a time", "write it as `2h` or `2026-12-01T00:00:00Z`"
        )
    return found


def check_known_names(halt: Halt, kernel: Kernel) -> None:
    """Check that the policies know the issuer and the package of a halt, because a misspelled halt would cover nothing.
    Raises HaltError.
    """
    if halt.issuer is not None and kernel.issuers:
        urls = {name: issuer.url for name, issuer in kernel.issuers.items()}
        if not issuer_spellings(halt.issuer, urls).intersection(map(fold_issuer, urls)):
            raise unknown_name("issuer", halt.issuer, urls)
    if halt.package is not None and fold_name(halt.package) not in map(fold_name, kernel.packages):
        raise unknown_name("package", halt.package, kernel.packages)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> HaltError:
    names = sorted(known)
    hint = did_you_mean(name, names) or f"the policies have {', '.join(f'`{one}`' for one in names)}"
    return HaltError(f"the policies have no {kind} `{quote_input(name)}`", hint)
