"""Redaction: replaces values under secret names with fingerprints, so that no log contains them."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from policyengine.runtime.values import Invalid
from policyengine.vocabulary import FACT_ROOT_NAMES, SECRET_HEADERS

Path: TypeAlias = tuple[str, ...]

_WORDS = """
access_token api_key apikey assertion auth_token authorization client_assertion client_secret code_verifier cookie
id_token passphrase passwd password private_key refresh_token secret session_token token x_amz_security_token
x_auth_token x_csrf_token
"""
# Secret names in lower case, as header names and as member names of a body.
SECRET_NAMES: Final = SECRET_HEADERS | {
    name for word in _WORDS.split() for name in (word, word.replace("_", "-"), word.replace("_", ""))
}
CALLER_ROOTS = frozenset({"request", "body", "args", "context", "credential", "task"})
ENDPOINT_PATHS = frozenset({("request", "method"), ("request", "path")})
REDACTED = Invalid("redacted", "redacted")
NAMED_FACT = re.compile(r"""[a-z]+(?:\.(?:[A-Za-z_][A-Za-z0-9_]*|\*\*?)|\["[^"\\]+"\])+""")
STEP = re.compile(r"""(?<=\[")[^"]+|[A-Za-z_][A-Za-z0-9_]*|\*\*?""")
ANY_MEMBER, ANY_PATH = "*", "**"  # `*` matches one step of a path, `**` any number of steps
MAX_PATH_CHARACTERS = 65_536  # maximum characters of the paths that a line names: a caller can choose long names


@dataclass(frozen=True, slots=True)
class RedactedFact:
    """A redacted fact. Within one run of the server, equal fingerprints mean equal values. `tellable` is whether a
    rule's message could reveal the fact; messages never contain secret headers.
    """

    fact: str
    fingerprint: str
    tellable: bool = field(default=False, compare=False)


class RedactedFacts:
    """The redacted facts of one line. Their paths have `room` characters in total; a fact whose path does not fit is
    listed by its first name (`body.**`). Otherwise a short request with a long name would make a huge line.
    """

    def __init__(self, room: float | None = None) -> None:
        self.facts: list[RedactedFact] = []
        self._room = MAX_PATH_CHARACTERS if room is None else room
        self._grouped: set[tuple[str, str, bool]] = set()

    def takes(self, path: Sequence[str | int]) -> bool:
        """Subtract the length of a path from the remaining room. Return False, and subtract nothing, if the path does
        not fit."""
        size = sum([len(str(step)) for step in path])
        if size > self._room:
            return False
        self._room -= size
        return True

    def add(self, path: Path, fingerprint: str, *, tellable: bool) -> bool:
        """Add the fact at a path. Return False if it is listed only by its first name."""
        if not self.takes(path):
            self.add_grouped(path[0], fingerprint, tellable=tellable)
            return False
        self.facts.append(RedactedFact(format_fact_path(path), fingerprint, tellable))
        return True

    def add_grouped(self, first: str, fingerprint: str, *, tellable: bool) -> None:
        """Add a fact by the first name of its path, once for equal values."""
        name = f"{first}.{ANY_PATH}"
        if (name, fingerprint, tellable) not in self._grouped:
            self._grouped.add((name, fingerprint, tellable))
            self.facts.append(RedactedFact(name, fingerprint, tellable))

    @property
    def tellable(self) -> bool:
        """Whether a message could reveal one of the facts."""
        return any(each.tellable for each in self.facts)


@dataclass(frozen=True, slots=True)
class Redaction:
    """The facts to redact in addition to facts with secret names: `paths`, and `patterns`, which are paths with stars.
    Fingerprints use a random key that is never stored, so that readers of the log cannot guess values from
    fingerprints.
    """

    paths: frozenset[Path] = frozenset()
    patterns: tuple[Path, ...] = ()
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @classmethod
    def of(cls, facts: Iterable[str]) -> Redaction:
        """Parse facts as policies write them: `body.card`, `request.headers["x-id"]`; one star matches every member or
        index, and two stars match any number of them: `args.**.token`. Raises ValueError."""
        paths = list(map(parse_fact_path, facts))
        patterns = tuple(path for path in paths if not {ANY_MEMBER, ANY_PATH}.isdisjoint(path))
        return cls(frozenset(paths).difference(patterns), patterns)

    def also(self, facts: Iterable[str]) -> Redaction:
        """Return a copy that also redacts these facts."""
        return replace(self, paths=self.paths.union(map(parse_fact_path, facts)))

    @property
    def suspicious(self) -> frozenset[str]:
        """Names, in lower case, whose values may have to be redacted."""
        return SECRET_NAMES | {path[-1].lower() for path in (*self.paths, *self.patterns)}

    def applied(self, tree: Mapping[str, object], found: RedactedFacts) -> dict[str, Any]:
        """Return the tree without its secrets, which are added to `found`."""
        return {name: self._without(value, (name,), found) for name, value in tree.items()}

    def value(self, value: object, path: Path) -> Any:
        """Return the value at a path without its secrets."""
        return self._without(value, path, RedactedFacts())

    def stand_in(self, value: object, at: Sequence[str | int], found: RedactedFacts) -> str | None:
        """Return the text in place of a value that JSON cannot represent, or None if there is room for its path."""
        if found.takes(at):
            return None
        fingerprint = self.fingerprint(value)
        found.add_grouped(str(at[0]), fingerprint, tellable=False)
        return mark(fingerprint)

    def _without(self, value: object, path: Path, found: RedactedFacts) -> object:
        if self.hides(path) and value is not None:
            is_header = path[:2] == ("request", "headers") and path[-1].lower() in SECRET_HEADERS
            fingerprint = self.fingerprint(value)
            is_named = found.add(path, fingerprint, tellable=not is_header)
            return mark(fingerprint) if isinstance(value, str) or not is_named else REDACTED
        match value:
            case Mapping():
                return {str(name): self._without(one, (*path, str(name)), found) for name, one in value.items()}
            case list() | tuple():
                return tuple(self._without(one, (*path, str(index)), found) for index, one in enumerate(value))
            case _:
                return value

    def hides(self, path: Path) -> bool:
        """Return whether the value at a path is redacted. Members that the format defines (`task.id`) are not secrets;
        names that callers choose may be.
        """
        named = (*path[:2], path[2].lower(), *path[3:]) if path[:2] == ("request", "headers") and path[2:] else path
        if path[-1].lower() in SECRET_NAMES or path in self.paths or named in self.paths:
            return True
        by_pattern = bool(self.patterns) and path[:2] not in ENDPOINT_PATHS
        return by_pattern and any(matches_pattern(named, pattern) for pattern in self.patterns)

    def fingerprint(self, value: object) -> str:
        return hmac.digest(self.key, repr(value).encode("utf-8", "surrogatepass"), "sha256").hex()[:16]


def mark(fingerprint: str) -> str:
    """Return the text in place of a redacted value."""
    return f"redacted:{fingerprint}"


def matches_pattern(path: Path, pattern: Path) -> bool:
    if not pattern:
        return not path
    if pattern[0] == ANY_PATH:
        return any(matches_pattern(path[skipped:], pattern[1:]) for skipped in range(len(path) + 1))
    return bool(path) and pattern[0] in (ANY_MEMBER, path[0]) and matches_pattern(path[1:], pattern[1:])


def parse_fact_path(fact: str) -> Path:
    """Parse a fact. Raises ValueError with a message for the user."""
    if not NAMED_FACT.fullmatch(fact):
        raise ValueError(f"`{fact}` is not the name of a fact")
    path = tuple(STEP.findall(fact))
    if path[:2] == ("past", "output") and path[-1] not in (ANY_MEMBER, ANY_PATH):
        return path[1:]  # reported outputs in outcomes and histories, whose paths lack `past`
    if path[0] not in FACT_ROOT_NAMES:
        raise ValueError(f"`{fact}`: the fact `{path[0]}` does not exist")
    if path[0] not in CALLER_ROOTS or path[:2] in ENDPOINT_PATHS:
        raise ValueError(f"`{fact}` cannot be redacted: a record must identify the caller and the endpoint")
    if path[-1] in (ANY_MEMBER, ANY_PATH):
        raise ValueError(f"`{fact}` ends with a star: to redact everything below a fact, name the fact itself")
    return (*path[:2], *(name.lower() for name in path[2:])) if path[:2] == ("request", "headers") else path


def format_fact_path(path: Path) -> str:
    """Return the fact as policies write it: `request.headers["x-id"]`."""
    first, *others = path
    return first + "".join(f".{name}" if name.isidentifier() else f'["{name}"]' for name in others)
