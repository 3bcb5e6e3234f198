"""The name of what a policy means: equal for equal kernels, wherever and in whatever order they were written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import cache
from typing import TypeVar
from zoneinfo import ZoneInfo

from policyengine.semantics import kernel as k

# What these fields hold is a set: doors are a union, all guards apply. The items of a guard keep their order.
SETS = frozenset(
    "agents anyones attesters binders carriers claims delegates delegation environments excepts fields grants guards "
    "issuers kinds models openings packages parents patterns requirements scopes unrestricted users".split()
)


Declared = TypeVar("Declared", bound=k.Part)
# Whose package was asked for is told in decisions and changes none.
LEFT_OUT = frozenset({"span", "package", "revision"})


def ordered(kernel: k.Kernel) -> k.Kernel:
    """The kernel with its declarations in one set order and its revision: what order they came in is forgotten."""
    found = replace(
        kernel,
        packages=tuple(sorted(kernel.packages)),
        binders=in_order(kernel.binders),
        agents=in_order(kernel.agents),
        users=in_order(kernel.users),
        anyones=in_order(kernel.anyones),
        delegation=in_order(kernel.delegation),
        guards=tuple(sorted(in_order(kernel.guards), key=lambda guard: (guard.package, guard.name))),
    )
    return replace(found, revision=revision(found))


def in_order(declared: tuple[Declared, ...]) -> tuple[Declared, ...]:
    return tuple(sorted(declared, key=canonical))


def revision(kernel: k.Kernel) -> str:
    """`sha256:` and 64 hexadecimal digits."""
    whole = ",".join(members(kernel, LEFT_OUT))
    return "sha256:" + hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def canonical(part: object) -> str:
    """One text for one meaning. Every kind of part is named, so that no two meanings share a text."""
    match part:
        case Enum():
            return f"{type(part).__name__}.{part.value}"
        case None | bool() | int() | str():
            return repr(part)
        case ZoneInfo():
            return f"ZoneInfo({part.key!r})"
        case tuple() | list():
            return f"[{','.join(map(canonical, part))}]"
        case frozenset() | set():
            return f"{{{','.join(sorted(map(canonical, part)))}}}"
        case Mapping():
            return f"{{{','.join(sorted(f'{canonical(key)}:{canonical(value)}' for key, value in part.items()))}}}"
        case k.Named(expression=expression):
            return canonical(expression)  # a name for a condition means what the condition means
        case _ if is_dataclass(part):
            return f"{type(part).__name__}({','.join(members(part))})"
        case _:
            return f"{type(part).__name__}({part})"


def members(part: object, left_out: frozenset[str] = frozenset({"span"})) -> Iterator[str]:
    for name in names(type(part)):  # type: ignore[arg-type]  # mypy asks instances, not the class, for a hash
        value = getattr(part, name)
        if name in SETS and isinstance(value, tuple):
            yield f"{name}=[{','.join(sorted(map(canonical, value)))}]"
        elif name not in left_out:
            yield f"{name}={canonical(value)}"


@cache
def names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
