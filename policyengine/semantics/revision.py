"""The name of what a policy means: equal for equal kernels, wherever and in whatever order they were written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from operator import attrgetter
from types import NoneType
from typing import Any, TypeAlias, TypeVar
from zoneinfo import ZoneInfo

from msgspec import Struct

from policyengine.semantics import kernel as k

# What these fields hold is a set: doors are a union, all guards apply. The items of a guard keep their order.
SETS = frozenset(
    "agents anyones attesters binders carriers claims delegates delegation environments excepts fields grants guards "
    "issuers kinds models openings packages parents patterns requirements scopes unrestricted users".split()
)


Declared = TypeVar("Declared", bound=k.Part)
Texts: TypeAlias = dict[int, str]  # of parts by identity: each is written once, for its order and for the revision
Write: TypeAlias = Callable[[Any], str]
# Whose package was asked for is told in decisions and changes none.
LEFT_OUT = frozenset({"span", "package", "revision"})


def ordered(kernel: k.Kernel) -> k.Kernel:
    """The kernel with its declarations in one set order and its revision: what order they came in is forgotten."""
    texts: Texts = {}
    found = replace(
        kernel,
        packages=tuple(sorted(kernel.packages)),
        binders=in_order(kernel.binders, texts),
        agents=in_order(kernel.agents, texts),
        users=in_order(kernel.users, texts),
        anyones=in_order(kernel.anyones, texts),
        delegation=in_order(kernel.delegation, texts),
        guards=tuple(sorted(in_order(kernel.guards, texts), key=lambda guard: (guard.package, guard.name))),
    )
    return replace(found, revision=revision(found, texts))


def in_order(declared: tuple[Declared, ...], texts: Texts) -> tuple[Declared, ...]:
    texts.update((id(part), canonical(part)) for part in declared)
    return tuple(sorted(declared, key=lambda part: texts[id(part)]))


def revision(kernel: k.Kernel, texts: Texts | None = None) -> str:
    """`sha256:` and 64 hexadecimal digits. `texts` are of parts that were written before."""
    hashed = hashlib.sha256()
    for piece in pieces(kernel, texts or {}):  # never the whole text at once: it is longer than the policy
        hashed.update(piece.encode("utf-8", "surrogatepass"))
    return f"sha256:{hashed.hexdigest()}"


def pieces(kernel: k.Kernel, texts: Texts) -> Iterator[str]:
    """The members of the kernel as `record` would write them."""
    between = ""
    for name in (name for name in names(k.Kernel) if name not in LEFT_OUT):
        value = getattr(kernel, name)
        yield f"{between}{name}="
        between = ","
        if name in SETS and isinstance(value, tuple):
            yield from listed(sorted(texts.get(id(part)) or canonical(part) for part in value))
        else:
            yield canonical(value)


def listed(written: Iterable[str]) -> Iterator[str]:
    before = "["
    for text in written:
        yield before
        yield text
        before = ","
    yield "]" if before == "," else "[]"


def canonical(part: object) -> str:
    """One text for one meaning. Every kind of part is named, so that no two meanings share a text."""
    return WRITERS[type(part)](part)


class Writers(dict[type, Write]):
    """How parts are written, by type: found out once for each, as a large policy has hundreds of thousands of parts."""

    def __missing__(self, kind: type) -> Write:
        self[kind] = found = writer(kind)
        return found


WRITERS = Writers()


def writer(kind: type) -> Write:
    name = kind.__name__
    if issubclass(kind, Enum):
        return {one: f"{name}.{one.value}" for one in kind}.__getitem__
    if issubclass(kind, NoneType | bool | int | str):
        return repr
    if issubclass(kind, ZoneInfo):
        return lambda part: f"ZoneInfo({part.key!r})"
    if issubclass(kind, tuple | list):
        return lambda part: f"[{','.join([WRITERS[type(one)](one) for one in part])}]"
    if issubclass(kind, frozenset | set):
        return lambda part: f"{{{','.join(sorted(map(canonical, part)))}}}"
    if issubclass(kind, Mapping):
        return lambda part: f"{{{','.join(sorted(f'{canonical(key)}:{canonical(one)}' for key, one in part.items()))}}}"
    if issubclass(kind, k.Named):
        return lambda part: canonical(part.expression)  # a name for a condition means what the condition means
    if is_dataclass(kind) or issubclass(kind, Struct):
        return record(kind)
    return lambda part: f"{name}({part})"


def record(kind: type) -> Write:
    """`Kind(member=…,member=…)`, without its place in the text."""
    name, members = kind.__name__, [member for member in names(kind) if member != "span"]
    if not members:
        return lambda part: f"{name}()"
    values = attrgetter(*members, members[0])  # with one more, so that also a single member comes in a tuple
    heads = [(f"{member}=", member in SETS) for member in members]

    def write(part: object) -> str:
        written = [
            head + (as_set(map(canonical, value)) if is_set and type(value) is tuple else WRITERS[type(value)](value))
            for (head, is_set), value in zip(heads, values(part), strict=False)
        ]
        return f"{name}({','.join(written)})"

    return write


def as_set(written: Iterable[str]) -> str:
    return f"[{','.join(sorted(written))}]"


def names(kind: type) -> tuple[str, ...]:
    if issubclass(kind, Struct):
        return kind.__struct_fields__
    return tuple(field.name for field in fields(kind))  # type: ignore[arg-type]  # a dataclass, asked before
