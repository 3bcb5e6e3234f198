"""Names in `--redact` that no rule reads, where a rule reads one that is spelled nearly so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass

from policyengine import kernel as k
from policyengine.audit.redaction import ANY_MEMBER, ANY_PATH, Path, Redaction, format_fact_path
from policyengine.diagnostics.model import suggest


def misspelled_redactions(redaction: Redaction, kernel: k.Kernel) -> Iterator[str]:
    """Members that no policy reads may be left out, too: only what is nearly one that is read is told."""
    paths = sorted({*redaction.paths, *redaction.patterns})
    read = frozenset(fact_paths(kernel)) if paths else frozenset()
    for path in paths:
        meant = None if any(holds(path, one) for one in read) else nearest_path(path, read)
        if meant is not None:
            names = format_redaction(path), format_redaction(meant)
            yield f"`--redact {names[0]}` leaves out nothing that a rule reads: did you mean `{names[1]}`?"


def fact_paths(part: object) -> Iterator[Path]:
    """Each fact in a part of the kernel, with the members that are read of it."""
    match part:
        case k.Fact():
            yield part.path
        case k.Member(base=k.Fact() as fact):
            yield (*fact.path, part.name)
        case tuple() | frozenset():
            for item in part:
                yield from fact_paths(item)
        case _ if is_dataclass(part) and not isinstance(part, type):
            for field in fields(part):
                if field.name not in ("span", "type"):
                    yield from fact_paths(getattr(part, field.name))


def holds(path: Path, read: Path) -> bool:
    """Whether one of both may be a part of the other, as far as stars let it be known."""
    for named, there in zip(path, read, strict=False):
        if named == ANY_PATH:
            return True
        if named not in (there, ANY_MEMBER):
            return False
    return True


def nearest_path(path: Path, read: Iterable[Path]) -> Path | None:
    """One member of it spelled as a fact has it that is read."""
    for at, word in enumerate(path):
        beside = {one[at] for one in read if len(one) > at and one[:at] == path[:at]}
        if word in (ANY_MEMBER, ANY_PATH):
            return None
        if word not in beside:
            meant = suggest(word, beside)
            return None if meant is None else (*path[:at], meant, *path[at + 1 :])
    return None


def format_redaction(path: Path) -> str:
    stars = (ANY_MEMBER, ANY_PATH)
    return path[0] + "".join(f".{one}" if one in stars else format_fact_path(("", one)) for one in path[1:])
