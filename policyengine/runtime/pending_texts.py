"""Pending texts of which a part is known: a glob that every possible value matches, such as `notes://open/*` for the
URIs of a template.

Gateways send questions about a template without knowing which of its URIs a client will read. The value travels as an
Invalid, so that clients, logs and replays keep it; code that does not recognize these texts treats it as a pending
fact.
"""

from __future__ import annotations

import re
from typing import Final

from policyengine.runtime.globs import Glob
from policyengine.runtime.values import Invalid

BEGINNING: Final = "pending, like `"
END: Final = "`"
MAX_GLOB_LENGTH: Final = 200  # longer globs are cut: they then match more
NOT_PLAIN: Final = re.compile(r"[^ -_a-~]+")  # not printable in ASCII, or a backquote
STARS: Final = re.compile(r"\*[*]+")
NO_CHARACTER: Final = "\0"  # no pattern of a policy contains it


def pending_text(glob: str) -> Invalid:
    """Return a pending text that matches the glob, or a wider one."""
    shown = STARS.sub("*", NOT_PLAIN.sub("*", glob))
    if len(shown) > MAX_GLOB_LENGTH:
        shown = f"{shown[: MAX_GLOB_LENGTH - 1]}*"
    return Invalid(f"{BEGINNING}{shown}{END}")


def pending_glob(raw: object) -> str | None:
    """Return the glob of a pending text; None for every other value."""
    if not isinstance(raw, Invalid) or not raw.why.startswith(BEGINNING):
        return None
    glob = raw.why[len(BEGINNING) : -len(END)]
    return glob if raw.why.endswith(END) and len(glob) <= MAX_GLOB_LENGTH else None


def compare_pending(operator: str, glob: str, constant: object) -> bool | None:
    """Return the result of a relation if it is the same for every text that matches the glob; otherwise None."""
    match operator, constant:
        case "like", str():
            return like_pending(glob, constant)
        case "==", str():
            return None if Glob(glob).matches(constant) else False
        case "!=", str():
            return None if Glob(glob).matches(constant) else True
        case "has", tuple():
            possible = any(not isinstance(one, str) or Glob(glob).matches(one) for one in constant)
            return None if possible else False
        case _:
            return None


def like_pending(glob: str, pattern: str) -> bool | None:
    """Return whether all texts of the glob match the pattern, or none does; None if some may."""
    if Glob(pattern).matches(glob.replace("*", NO_CHARACTER)):
        return True
    if "*" not in glob:
        return False
    return None if may_meet(glob, pattern) else False


def may_meet(glob: str, pattern: str) -> bool:
    """Return False only if no text matches both; takes linear time."""
    if "*" not in pattern:
        return Glob(glob).matches(pattern)
    head, other = glob.partition("*")[0], pattern.partition("*")[0]
    tail, other_tail = glob.rpartition("*")[2], pattern.rpartition("*")[2]
    heads = head.startswith(other) or other.startswith(head)
    return heads and (tail.endswith(other_tail) or other_tail.endswith(tail))
