"""A question and its decision to one line of the log.

JSON holds most questions as they are. What it cannot hold (times and addresses as Python has them, hazards that a
decoder found) stands beside the request, under `beyond_json`, so that whoever reads the line gets the very same facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from math import isfinite
from typing import Any

import msgspec

from policyengine import kernel as k
from policyengine.audit.history_fields import told as told_past
from policyengine.audit.redaction import Redacted, Redaction
from policyengine.audit.tokens import What, times_in_words
from policyengine.entities.store import Found, Unanswered
from policyengine.runtime.decision import Decision
from policyengine.runtime.decode import DEEPEST, TOO_DEEP, clean_leaf
from policyengine.runtime.entities import EntityData
from policyengine.runtime.fast_decode import shallow
from policyengine.runtime.request import Approval, Options, Request, RequestError
from policyengine.runtime.values import Invalid, Missing, text_hazard
from policyengine.spec.facts import Facts
from policyengine.typesystem import EntityRef

VERSION = 1
BEGINNING = b'{"v":1,'  # of every line: where a torn one is followed by a whole one, the whole one is found by it
PLAIN = frozenset({str, int, bool, type(None)})
NOTHING: frozenset[str] = frozenset()
UNTOLD = "not in the log: it could show a fact that was left out"
LARGEST_PLAIN = 65_536  # bytes in which no string is too long to be a value

encode = msgspec.json.Encoder(decimal_format="number").encode


@lru_cache(maxsize=64)
def second(seconds: int) -> str:
    return (datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat()


def moment_text(nanoseconds: int) -> bytes:
    """RFC 3339 in UTC, to the microsecond: what a decision knows of the clock."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return b"%b.%06dZ" % (second(seconds).encode(), rest // 1000)


def simple(tree: Any, suspicious: frozenset[str]) -> bool:
    """Whether JSON holds the object as it is, and no name in it is one that secrets go by.

    Every decision waits for this. Raises AttributeError, TypeError for names that are no strings.
    """
    for name, value in tree.items():
        if name in suspicious or (not name.islower() and name.lower() in suspicious):
            return False
        kind = value.__class__
        if kind in PLAIN:
            continue
        if kind is dict:
            if not simple(value, suspicious):
                return False
        elif kind is list and PLAIN.issuperset(map(type, value)):
            continue
        elif not simple_leaf(value, suspicious):
            return False
    return True


def simple_leaf(value: object, suspicious: frozenset[str]) -> bool:
    match value:
        case list() | tuple():
            return all(
                simple(one, suspicious) if one.__class__ is dict else simple_leaf(one, suspicious) for one in value
            )
        case float():
            return isfinite(value)
        case Decimal():
            return has_point(value)
        case _:
            return value.__class__ in PLAIN


def has_point(number: Decimal) -> bool:
    """Whether who reads it takes it for a decimal, as it is, and not for a whole number."""
    return number.is_finite() and not str(number).lstrip("-").isdigit()


# ── Questions that are not simple ─────────────────────────────────────────────────────────────


def raw_of_any(question: Mapping[str, object] | Request) -> dict[str, object]:
    """The question in its wire shape, whatever it holds: what no rule asked about was not looked at before."""
    if isinstance(question, Request):
        return raw_of(question)
    try:
        return raw_of(Request.from_mapping(question))
    except RequestError:
        return {name: bounded(value, DEEPEST - 1) for name, value in question.items()}


def bounded(value: object, levels: int) -> object:
    """The value as far as a request may hold it: nothing nested deeper, and no name that none may have."""
    match value:
        case Mapping() | list() | tuple() if not levels:
            return Invalid(TOO_DEEP)
        case Mapping():
            names = {str.__str__(name): one for name, one in value.items() if issubclass(type(name), str)}
            return {name: bounded(one, levels - 1) for name, one in names.items() if not text_hazard(name)}
        case list() | tuple():
            return tuple(bounded(one, levels - 1) for one in value)
        case _:
            return clean_leaf(value)


def raw_of(request: Request) -> dict[str, object]:
    """The question that this request was, in its wire shape."""
    return {
        **without_pending(request.facts),
        **({"approvals": tuple(map(approval, request.approvals))} if request.approvals else {}),
        **({"entities": tuple(map(row, request.entities))} if request.entities else {}),
        **({"pending": tuple(sorted(request.pending))} if request.pending else {}),
        **({} if request.options == Options() else {"options": options(request.options)}),
    }


def without_pending(facts: Mapping[str, object]) -> dict[str, object]:
    """What is pending, a whole root or a part of one, stands under `pending`."""
    return {
        name: without_pending(one) if isinstance(one, Mapping) else one
        for name, one in facts.items()
        if not isinstance(one, Missing)
    }


def approval(one: Approval) -> dict[str, object]:
    found = {"id": one.id, "by": one.by, "granted_at": one.granted_at, "binding": one.binding}
    return {name: value for name, value in found.items() if value is not None}


def row(one: EntityData) -> dict[str, object]:
    parents = tuple({"type": parent.type, "id": parent.id} for parent in one.parents)
    partial = {"partial": True} if one.partial else {}
    return {"type": one.ref.type, "id": one.ref.id, "attributes": one.attributes, "in": parents, **partial}


def options(given: Options) -> dict[str, object]:
    supported = given.obligations_supported
    return {
        "consume": given.consume,
        "explain": given.explain,
        **({} if supported is None else {"obligations_supported": tuple(sorted(supported))}),
        **({} if given.at is None else {"at": given.at}),
    }


def portable(value: object, at: tuple[str | int, ...], beyond: list[dict[str, object]]) -> object:
    """The value as JSON holds it; what JSON cannot hold is null there and told in `beyond`."""
    match value:
        case Mapping():
            return {str(name): portable(one, (*at, str(name)), beyond) for name, one in value.items()}
        case list() | tuple():
            return [portable(one, (*at, index), beyond) for index, one in enumerate(value)]
        case None | bool() | int() | str():
            return value
        case Decimal() if has_point(value):
            return value
        case _:
            kind, written = told(value)
            beyond.append({"at": list(at), "is": kind, "value": written})
            return None


def told(value: object) -> tuple[str, object]:
    match value:
        case Decimal():
            return "number", str(value)
        case datetime():
            return "time", value.isoformat()
        case timedelta():
            return "duration", value // timedelta(microseconds=1)
        case IPv4Address() | IPv6Address():
            return "ip", str(value)
        case IPv4Network() | IPv6Network():
            return "cidr", str(value)
        case EntityRef(type_, id_):
            return "entity", [type_, id_]
        case Invalid(why, given):
            return ("invalid", why) if given is None else ("no_value", [why, given])
        case _:
            return "invalid", "of no type that policies know"


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────


class Writer:
    """Writes the lines of one log."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._suspicious = redaction.suspicious

    def question(self, question: Mapping[str, object] | Request) -> tuple[bytes, bool]:
        """The members of a line from `request` on, and whether messages could show what was left out of it."""
        if type(question) is dict and (plainly := self._plainly(question)) is not None:
            return plainly
        tree, redacted = self._redaction.applied(raw_of_any(question))
        beyond: list[dict[str, object]] = []
        written = encode(portable(tree, (), beyond))
        return members(b'"request":' + written, redacted, beyond), any(one.tellable for one in redacted)

    def _plainly(self, question: dict[str, object]) -> tuple[bytes, bool] | None:
        """None for a question that must be read with care to be written down."""
        redacted: list[Redacted] = []
        try:
            if not simple(question, self._suspicious):
                question, redacted = self._redaction.applied(question)
                if not simple(question, NOTHING):
                    return None
            written = encode(question)
        except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):
            return None
        if len(written) > LARGEST_PLAIN or not shallow(written, question):
            return None
        return members(b'"request":' + written, redacted, ()), any(one.tellable for one in redacted)

    def line(self, decision: Decision, moment: int, call: bytes, state: bytes, asked: tuple[bytes, bool]) -> bytes:
        """One decision; `state` are members with a comma behind each."""
        question, tells = asked
        return b"".join(
            (
                BEGINNING,
                b'"time":"',
                moment_text(moment),
                b'","call":"',
                call,
                b'",',
                state,
                b'"decision":',
                untold(decision.to_json()) if tells else decision.to_json(),
                b",",
                question,
                b"}\n",
            )
        )

    def event(self, what: What, told: Mapping[str, object], moment: int, state: bytes) -> bytes:
        """What became of a token; `told` has facts under the names of questions, which are left out as there."""
        clean = {name: bounded(value, DEEPEST - 1) for name, value in told.items()}
        tree, redacted = self._redaction.applied(clean)
        beyond: list[dict[str, object]] = []
        written = encode(portable(times_in_words(tree), (), beyond))
        rest = members(b'"%b":%b' % (what.encode(), written), redacted, beyond)
        return b"".join((BEGINNING, b'"time":"', moment_text(moment), b'",', state, rest, b"}\n"))

    def past(self, asked: Iterable[k.Happened | k.Aggregate], facts: Facts) -> bytes:
        """The member that tells what happened before; nothing where nothing was asked."""
        found = told_past(asked, facts, self._redaction)
        return b'"history":' + encode(found) + b"," if found else b""

    def directory(self, rows: Iterable[EntityData], digest: Callable[[bytes], str]) -> tuple[str, bytes]:
        """The line that holds the rows that decisions were made by, under the name that these give."""
        rest = self._rows(rows)
        name = digest(rest)
        return name, BEGINNING + b'"directory":' + encode(name) + b"," + rest + b"}\n"

    def looked_up(self, found: Mapping[EntityRef, Found], types: Iterable[str]) -> bytes:
        """The member that tells which rows a decision asked for, and of which it was told nothing."""
        rest = self._rows(one for one in found.values() if isinstance(one, EntityData))
        unanswered = [[ref.type, ref.id] for ref, one in found.items() if isinstance(one, Unanswered)]
        none = [[ref.type, ref.id] for ref, one in found.items() if one is None]
        about = b'"types":%b,"none":%b,"unanswered":%b' % (encode(sorted(types)), encode(none), encode(unanswered))
        return b'"looked_up":{%b,%b},' % (about, rest)

    def _rows(self, rows: Iterable[EntityData]) -> bytes:
        beyond: list[dict[str, object]] = []
        clean = [self._redaction.applied(row(one)) for one in rows]
        written = b'"entities":' + encode(portable([one for one, _ in clean], (), beyond))
        return members(written, [one for _, some in clean for one in some], beyond)


def untold(decision: bytes) -> bytes:
    """The decision without the messages of rules, which may show what was left out of its request."""
    tree = msgspec.json.decode(decision)
    for one in (*tree["reasons"], *tree["obligations"]):
        if one.get("rule") is not None and one.get("message") is not None:
            one["message"] = UNTOLD
    return encode(tree)


def members(first: bytes, redacted: Sequence[Redacted], beyond: Sequence[dict[str, object]]) -> bytes:
    """The rest of a line: mostly there is nothing else to say."""
    if not redacted and not beyond:
        return first
    parts = [first]
    parts += [b'"redacted":' + encode([{"fact": one.fact, "fingerprint": one.fingerprint} for one in redacted])]
    return b",".join([*parts, *([b'"beyond_json":' + encode(beyond)] if beyond else [])])
