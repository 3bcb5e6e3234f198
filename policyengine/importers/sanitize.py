"""Turns untrusted text into names and comments that cannot become policy code."""

from __future__ import annotations

import re
import unicodedata

from policyengine.control_characters import is_invisible

MAX_NAME_LENGTH = 40
MAX_SUMMARY_LENGTH = 72
MAX_SHOWN_LENGTH = 80
WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
INVALID_CHARACTERS = re.compile(r"[^a-z0-9]+")
NAME = re.compile(r"[a-z_][A-Za-z0-9_]*")
MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OAUTH_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")
# Reserved words of the grammar and its facts; generated names avoid them.
RESERVED_NAMES = frozenset(
    """absent action acts advisory after age agent all allow alone always and another any anyone args as at attestation
    attested attester audience audit behavior below body bool bound budget burst by case cases chain chains cidr
    claims clamp cluster confirm context cost count counting credential cycles define delegate delegation
    denials denied deny depth distinct duration else entities entity enum environment except expect export fact
    facts failure false first fixture floor for forall from given group guard has header history ignore import in
    include inherited int invariant ip is issued issuer keys kind known language let lifetime like list local main map
    matches may message model most never no none not notify number of on once optional or otherwise overlaps
    package params past paths per present profile raise rate records redact repeat repeated request require resource
    responded role scope scopes set since skip step_up store string subject subset sum task tasks test throttle time
    to tokens tool true unless unrestricted until url use user users valid warn when where with within""".split()
)


def safe_name(text: str, otherwise: str) -> str:
    """Return a lower-case name that is not reserved; `otherwise` if no character of the text can be part of a name."""
    plain = unicodedata.normalize("NFKD", text[:200]).encode("ascii", "ignore").decode()
    name = INVALID_CHARACTERS.sub("_", WORD_BOUNDARY.sub("_", plain).lower()).strip("_")[:MAX_NAME_LENGTH].strip("_")
    if not name:
        return otherwise
    name = f"_{name}" if name[0].isdigit() else name
    return f"{name}_" if name in RESERVED_NAMES else name


def capture_name(text: str, otherwise: str) -> str:
    """Return the name of a capture, unchanged if valid, so that messages use the API's own names."""
    name = text if NAME.fullmatch(text) and len(text) <= MAX_NAME_LENGTH else safe_name(text, otherwise)
    return f"{name}_" if name in RESERVED_NAMES else name


def is_member(text: str) -> bool:
    """Return whether a fact below `body` or `args` may have this name."""
    return MEMBER.fullmatch(text) is not None and len(text) <= MAX_NAME_LENGTH


def is_inner_member(text: str) -> bool:
    """Return whether a member of a record may have this name: it must not be a reserved word."""
    return NAME.fullmatch(text) is not None and len(text) <= MAX_NAME_LENGTH and text not in RESERVED_NAMES


def quoted_comment(text: str) -> str:
    """Return one line of the text in quotes. Because of the quotes, `# "…"` is never an instruction to a tool, unlike
    `# lint: …`.
    """
    seen = "".join(" " if is_invisible(char) or not char.isprintable() else char for char in text[:1_000])
    line = " ".join(seen.replace('"', "'").split())
    cut = line if len(line) <= MAX_SUMMARY_LENGTH else f"{line[: MAX_SUMMARY_LENGTH - 1].rstrip()}…"
    return f'"{cut}"' if cut else ""


def printable(text: str) -> str:
    """Return the beginning of the text for a message, with `?` for characters that cannot be shown in backticks."""
    return "".join(char if char.isprintable() and char != "`" else "?" for char in text[:MAX_SHOWN_LENGTH])


def is_oauth_scope(text: str) -> bool:
    """Return whether OAuth tokens can carry a scope of this name."""
    return OAUTH_SCOPE.fullmatch(text) is not None


class NameAllocator:
    """Allocates unique names; names that readers may confuse are treated as equal."""

    def __init__(self, taken: frozenset[str] = frozenset()) -> None:
        self._taken = {_skeleton(name) for name in taken}

    def new(self, wanted: str) -> str:
        name, number = wanted, 1
        while _skeleton(name) in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(_skeleton(name))
        return name


def _skeleton(name: str) -> str:
    return name.lower().translate(str.maketrans("1|0_", "llo.")).replace("i", "l")
