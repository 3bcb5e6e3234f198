"""Bundles that no compiler wrote: with a valid digest, but changed inside."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

import msgpack  # type: ignore[import-untyped]

from policyengine.compiler.bundle import file
from policyengine.compiler.bundle.file import BundleError, decode_bundle, write_bundle
from policyengine.compiler.bundle.payload import KINDS, RuleData, bundle_schema, read_everything
from policyengine.engine import Engine
from tests.generate import cases, directory
from tests.trusting import TRUSTING

LISTS = ("patterns", *KINDS)  # members whose items are bytes of their own; so is the table of types
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 255, 2**63 - 1, -(2**63), 2**64 - 1, 0.5),
    *("", "x", "user", "id", "read", "GET", "*", "a/b", "\x00", "ü", "x" * 70_000, "(a+)+$", "Europe/Berlin"),
    *(b"", b"\xc0", [], [[]], {}, {"a": 1}, [0], ["items"], ["number", "NaN"], ["ip", "::1"], msgpack.ExtType(1, b"")),
)


def members_of(data: bytes) -> dict[str, Any]:
    """Return the texts and the rules of a bundle by name, with everything unpacked."""
    sources, rules = msgpack.unpackb(msgpack.unpackb(data)[5])
    members = dict(zip(RuleData.__struct_fields__, msgpack.unpackb(rules), strict=True))
    unpacked: dict[str, Any] = {name: [msgpack.unpackb(one) for one in members[name]] for name in LISTS}
    return {"sources": sources, **members, **unpacked, "types": msgpack.unpackb(members["types"])}


def bundled(members: Any) -> bytes:
    """Return a bundle of any content with a valid digest; it may nest deeper than real bundles."""
    if not isinstance(members, dict):
        return sealed(packed(members))
    rules = [repacked(name, value) for name, value in members.items() if name != "sources"]
    return sealed(packed([members.get("sources"), packed(rules)]))


def repacked(name: str, value: Any) -> Any:
    if name == "types":
        return packed(value)
    return [packed(one) for one in value] if name in LISTS and isinstance(value, list) else value


def sealed(payload: bytes) -> bytes:
    """Return the payload with its digest."""
    digest = file.digest_of(file.FORMAT, "0.1.0", bundle_schema().shape, payload)
    found: bytes = msgpack.packb([file.MAGIC, file.FORMAT, "0.1.0", bundle_schema().shape, digest, payload, []])
    return found


def packed(value: Any) -> bytes:
    """Pack like `msgpack.packb`, which nests at most 511 levels and so cannot make nesting bombs."""
    out, pending = bytearray(), [value]
    while pending:
        one = pending.pop()
        if isinstance(one, list):
            out += msgpack.Packer().pack_array_header(len(one))
            pending += reversed(one)
        elif isinstance(one, dict):
            out += msgpack.Packer().pack_map_header(len(one))
            pending += reversed([part for pair in one.items() for part in pair])
        else:
            out += msgpack.packb(one)
    return bytes(out)


def mutated(random: Random, members: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with up to three changed places: an odd value, a value from elsewhere, one element more or less."""
    changed = deepcopy(members)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(places_in(changed))
        holder, key = random.choice(places)
        match random.randrange(5):
            case 0:
                holder[key] = random.choice(ODD)
            case 1:
                other, there = random.choice(places)
                holder[key] = deepcopy(other[there])
            case 2 if isinstance(holder, list):
                del holder[key]
            case 3 if isinstance(holder, list):
                holder.insert(key, holder[key])
            case _ if isinstance(holder[key], int) and not isinstance(holder[key], bool):
                holder[key] += random.choice((-1, 1, 2))
            case _:
                holder[key] = random.choice(ODD)
    return changed


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    pending = [value]
    while pending:
        holder = pending.pop()
        inner = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
        for key, one in inner:
            yield holder, key
            if isinstance(one, dict | list) and len(one) > 0:
                pending.append(one)


def refused_or_sound(seed: int, changes: int) -> int:
    """Change a bundle of a generated policy at random this many times, and return how many were refused. All others
    decide without failing, and as they explain."""
    asked = list(cases(seed, questions=2))
    members, random, refused = members_of(write_bundle(asked[0].kernel, "0.1.0")), Random(seed), 0
    for _ in range(changes):
        try:
            found = decode_bundle(bundled(mutated(random, members)))
            kernel = read_everything(found.kernel)
        except BundleError:
            refused += 1
            continue
        for case in asked:
            engine = Engine(
                kernel,
                tree=found.tree,
                directory=directory(case.rows),
                clock=lambda now=case.now: now,
                approvals=TRUSTING,
            )
            engine.decide(case.request)
            evaluated, explained = engine.evaluate(case.request), engine.explain(case.request).decision
            assert (evaluated.outcome, evaluated.gate) == (explained.outcome, explained.gate)
            assert engine.failures == 0
    return refused
