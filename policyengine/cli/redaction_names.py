"""Finds names in `--redact` that no rule reads, although a rule reads a fact with a similar name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass

from policyengine import kernel as k
from policyengine.audit.redaction import ANY_MEMBER, ANY_PATH, Path, Redaction, format_fact_path
from policyengine.diagnostics.suggest import suggest


def misspelled_redactions(redaction: Redaction, kernel: k.Kernel) -> Iterator[str]:
    """Yield a warning for each name that is similar to the name of a fact that a policy reads. Facts that no policy
    reads are valid, too."""
    paths = sorted({*redaction.paths, *redaction.patterns})
    read = frozenset(fact_paths(kernel)) if paths else frozenset()
    for path in paths:
        meant = None if any(holds(path, one) for one in read) else nearest_path(path, read)
        if meant is not None:
            names = format_redaction(path), format_redaction(meant)
            yield f"`--redact {names[0]}` matches no fact that a rule reads: did you mean `{names[1]}`?"


def fact_paths(part: object) -> Iterator[Path]:
    """Yield the path of each fact in a part of the kernel, with the members that are read."""
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
    """Return whether one of the paths may be a part of the other, given wildcards."""
    for named, there in zip(path, read, strict=False):
        if named == ANY_PATH:
            return True
        if named not in (there, ANY_MEMBER):
            return False
    return True


def nearest_path(path: Path, read: Iterable[Path]) -> Path | None:
    """Return the path with one member respelled like a fact that is read, or None if no name is similar."""
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
