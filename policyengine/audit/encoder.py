"""Encodes a question and its decision as one line of the log.

JSON represents most questions exactly. Values that JSON cannot represent (Python times and addresses, invalid values
that a decoder marked) are written under `beyond_json`, so that a reader restores exactly the same facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from math import inf, isfinite
from typing import Any, TypeAlias

import msgspec

from policyengine import kernel as k
from policyengine.audit.logged_history import encode_histories as told_past
from policyengine.audit.redaction import RedactedFact, RedactedFacts, Redaction
from policyengine.audit.token_events import format_times
from policyengine.control_characters import printable_json
from policyengine.entities.store import RowResult, UnknownRow
from policyengine.runtime.decision import Decision, logged_json
from policyengine.runtime.decode import MAX_DEPTH, TOO_DEEP, clean_scalar
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import NO_OPTIONS, Approval, Options, Request, RequestError
from policyengine.runtime.values import Invalid, MissingValue, text_hazard
from policyengine.spec.facts import Facts
from policyengine.typesystem import EntityRef

LOG_VERSION = 2
LINE_START = b'{"v":2,'  # every line begins with this, so that readers find the next line after an incomplete one
DECISION_START = LINE_START + b'"time":"'
OBJECT_START = b'{"v":'  # only the beginning of a line contains this
LINE_STARTS = (LINE_START, b'{"v":1,')  # beginnings of lines of this version and of earlier versions
PLAIN_TYPES = frozenset({str, int, bool, type(None)})
MAX_SHAPES, MAX_SHAPE_CHARACTERS = 1_000, 1_000  # maximum sets of names that a check remembers, and their length
WITHHELD_MESSAGE = "withheld: it could reveal a redacted fact"
MAX_PLAIN_BYTES = 65_536  # in a question of at most this size, no string can be too long for a value

StandIn: TypeAlias = Callable[[object, Sequence[str | int]], str | None]
encode = msgspec.json.Encoder(decimal_format="number").encode


@lru_cache(maxsize=64)
def format_second(seconds: int) -> bytes:
    return (datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat().encode()


def format_moment(nanoseconds: int) -> bytes:
    """Format nanoseconds since 1970 as RFC 3339 in UTC, to the microsecond, the precision of decisions."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return b"%b.%06dZ" % (format_second(seconds), rest // 1000)


class PlainCheck:
    """Checks that JSON represents a question exactly, and that none of its names is in `suspicious`. Every decision
    waits for this check, so the names of an object are checked only once for all objects with the same names."""

    def __init__(self, suspicious: frozenset[str]) -> None:
        self._suspicious = suspicious
        self._names_index = any(name.isdecimal() for name in suspicious)  # of a list, whose indexes are not names
        self._known: set[tuple[str, ...]] = set()

    def is_plain_object(self, tree: dict[str, Any], levels: int = MAX_DEPTH - 1) -> bool:
        """Return whether an object is plain and contains at most `levels` levels of values. Raises AttributeError or
        TypeError for names that are not strings."""
        names = tuple(tree)
        if names not in self._known and not self._has_plain_names(names):
            return False
        for value in tree.values():
            kind = value.__class__  # compared one by one, which is faster than looking it up in a set
            if kind is str or kind is int or kind is bool or value is None:
                continue
            if kind is dict:
                if not levels or not self.is_plain_object(value, levels - 1):
                    return False
            elif kind is tuple or kind is list:
                if self._names_index or not levels:
                    return False
                if not PLAIN_TYPES.issuperset(map(type, value)) and not self._is_plain_value(value, levels):
                    return False
            elif not self._is_plain_value(value, levels):
                return False
        return True

    def _has_plain_names(self, names: tuple[str, ...]) -> bool:
        for name in names:
            if name in self._suspicious or (not name.islower() and name.lower() in self._suspicious):
                return False
        if len(self._known) < MAX_SHAPES and sum(map(len, names)) <= MAX_SHAPE_CHARACTERS:
            self._known.add(names)
        return True

    def _is_plain_value(self, value: object, levels: int) -> bool:
        kind = value.__class__
        if kind is list or kind is tuple:
            return levels > 0 and all(self._is_plain_value(one, levels - 1) for one in value)  # type: ignore[attr-defined]
        if kind is dict:
            return levels > 0 and self.is_plain_object(value, levels - 1)  # type: ignore[arg-type]
        if isinstance(value, float):
            return isfinite(value)
        return has_decimal_point(value) if isinstance(value, Decimal) else kind in PLAIN_TYPES


def has_decimal_point(number: Decimal) -> bool:
    """Return whether a reader will read the number as a decimal, not as an integer. A number beyond the range of 64-bit
    floats does not qualify, because many readers would refuse its line."""
    return number.is_finite() and isfinite(float(number)) and not str(number).lstrip("-").isdigit()


# ── Questions of the slow path ────────────────────────────────────────────────────────────────


def to_raw_question(question: Mapping[str, object] | Request) -> dict[str, object]:
    """Return the question as sent over the wire. A malformed question, which the engine decides if no rule reads the
    malformed part, is returned without what cannot be written: invalid names, and parts nested too deep.
    """
    if isinstance(question, Request):
        return to_raw_request(question)
    try:
        return to_raw_request(Request.from_mapping(question))
    except RequestError:
        return {name: bound_depth(value, MAX_DEPTH - 1) for name, value in question.items()}


def plain_members(request: Mapping[str, object] | Request) -> dict[str, object] | None:
    """Return the members of a request that has only facts, names of pending facts and ordinary options, as most
    requests do; None for every other request."""
    if type(request) is not Request or request.approvals or request.entities:
        return None
    if type(request.facts) is not dict:
        return None
    options, pending = request.options, request.pending
    if not pending and (options is NO_OPTIONS or options == NO_OPTIONS):
        return request.facts
    members = {**without_pending(request.facts), "pending": sort_names(pending)} if pending else dict(request.facts)
    if options != NO_OPTIONS:
        members["options"] = encode_options(options)
    return members


def bound_depth(value: object, levels: int) -> object:
    """Return the value without parts nested too deep, and without invalid names."""
    match value:
        case Mapping() | list() | tuple() if not levels:
            return Invalid(TOO_DEEP)
        case Mapping():
            names = {str.__str__(name): one for name, one in value.items() if issubclass(type(name), str)}
            return {name: bound_depth(one, levels - 1) for name, one in names.items() if not text_hazard(name)}
        case list() | tuple():
            return tuple(bound_depth(one, levels - 1) for one in value)
        case _:
            return clean_scalar(value)


def to_raw_request(request: Request) -> dict[str, object]:
    """Return a request as sent over the wire."""
    return {
        **without_pending(request.facts),
        **({"approvals": tuple(map(encode_approval, request.approvals))} if request.approvals else {}),
        **({"entities": tuple(map(encode_row, request.entities))} if request.entities else {}),
        **({"pending": sort_names(request.pending)} if request.pending else {}),
        **({} if request.options == Options() else {"options": encode_options(request.options)}),
    }


def without_pending(facts: Mapping[str, object]) -> dict[str, object]:
    """Return the facts without pending facts, which are written under `pending`."""
    found: dict[str, object] = {}
    for name, one in facts.items():
        kind = type(one)
        if kind is str or kind is int or kind is bool:
            found[name] = one
        elif kind is dict or isinstance(one, Mapping):
            found[name] = without_pending(one)  # type: ignore[arg-type]  # its names are strings
        elif not isinstance(one, MissingValue):
            found[name] = one
    return found


@lru_cache(maxsize=256)  # callers send the same names repeatedly
def sort_names(names: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def encode_approval(one: Approval) -> dict[str, object]:
    found = {
        "id": one.id, "by": one.by, "issuer": one.issuer, "granted_at": one.granted_at, "binding": one.binding,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def encode_row(one: EntityData) -> dict[str, object]:
    parents = tuple({"type": parent.type, "id": parent.id} for parent in one.parents)
    partial = {"partial": True} if one.partial else {}
    return {"type": one.ref.type, "id": one.ref.id, "attributes": one.attributes, "in": parents, **partial}


@lru_cache(maxsize=64)
def encode_options(given: Options) -> dict[str, object]:
    supported = given.obligations_supported
    return {
        "consume": given.consume,
        "explain": given.explain,
        **({} if supported is None else {"obligations_supported": tuple(sorted(supported))}),
        **({} if given.at is None else {"at": given.at}),
    }


def no_stand_in(value: object, at: Sequence[str | int]) -> str | None:
    return None


def to_json_value(
    value: object, at: tuple[str | int, ...], beyond: list[dict[str, object]], stand_in: StandIn = no_stand_in
) -> object:
    """Return the value as JSON. A value that JSON cannot represent becomes null and is added to `beyond`, unless
    `stand_in` returns a text for it."""
    match value:
        case Mapping():
            return {str(name): to_json_value(one, (*at, str(name)), beyond, stand_in) for name, one in value.items()}
        case list() | tuple():
            return [to_json_value(one, (*at, index), beyond, stand_in) for index, one in enumerate(value)]
        case None | bool() | int() | str():
            return value
        case Decimal() if has_decimal_point(value):
            return value
        case _:
            text = stand_in(value, at)
            if text is None:
                kind, written = encode_special_value(value)
                beyond.append({"at": list(at), "is": kind, "value": written})
            return text


def encode_special_value(value: object) -> tuple[str, object]:
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
            return "invalid", "of a type that policies do not support"


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────


class LogLineEncoder:
    """Encodes the lines of one log."""

    def __init__(self, redaction: Redaction) -> None:
        self.redaction = self._redaction = redaction
        self._plain, self._plain_values = PlainCheck(redaction.suspicious), PlainCheck(frozenset())

    def question(self, question: Mapping[str, object] | Request) -> tuple[bytes, bool]:
        """Return the encoded members of a line from `request` on, and whether messages could reveal a redacted fact."""
        members = question if type(question) is dict else plain_members(question)
        if members is not None and (plainly := self._encode_plain(members)) is not None:
            return plainly
        redacted, beyond = RedactedFacts(), list[dict[str, object]]()
        written = self._encode(self._redaction.applied(to_raw_question(question), redacted), redacted, beyond)
        return encode_members(b'"request":' + written, redacted.facts, beyond), redacted.tellable

    def _encode(self, tree: object, redacted: RedactedFacts, beyond: list[dict[str, object]]) -> bytes:
        """Encode a tree with its secrets replaced by fingerprints. Facts that were redacted are added to `redacted`,
        and values that JSON cannot represent to `beyond`."""
        return encode(to_json_value(tree, (), beyond, lambda value, at: self._redaction.stand_in(value, at, redacted)))

    def _encode_plain(self, question: dict[str, object]) -> tuple[bytes, bool] | None:
        """Encode an ordinary question on the fast path, or return None."""
        redacted = RedactedFacts()
        try:
            if not self._plain.is_plain_object(question):
                question = self._redaction.applied(question, redacted)
                if not self._plain_values.is_plain_object(question):
                    return None
            written = encode(question)
        except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):
            return None
        if len(written) > MAX_PLAIN_BYTES:
            return None
        first = b'"request":' + written
        return (encode_members(first, redacted.facts, ()), redacted.tellable) if redacted.facts else (first, False)

    def line(self, decision: Decision, moment: int, call: bytes, state: bytes, asked: tuple[bytes, bool]) -> bytes:
        """Return the line of a decision. `state` holds encoded members, each followed by a comma."""
        question, tells = asked
        line = b"".join(
            (
                DECISION_START,
                format_moment(moment),
                b'","call":"',
                call,
                b'",',
                state,
                b'"decision":',
                withhold_messages(decision.to_json()) if tells else logged_json(decision),
                b",",
                question,
                b"}\n",
            )
        )
        return finish_line(line)

    def event(
        self, what: str, told: Mapping[str, object], moment: int, state: bytes, *, is_clean: bool = False
    ) -> bytes:
        """Return the line of an event of a token, an outcome, the server or the seal. Facts in `told` have the names
        that questions use, and are redacted as in questions. With `is_clean`, its numbers are those of clean facts.
        """
        rest = self._encode_plain_event(what, told) if is_clean else None
        if rest is None:
            clean = {name: bound_depth(value, MAX_DEPTH - 1) for name, value in told.items()}
            redacted, beyond = RedactedFacts(), list[dict[str, object]]()
            written = self._encode(format_times(self._redaction.applied(clean, redacted)), redacted, beyond)
            rest = encode_members(b'"%b":%b' % (what.encode(), written), redacted.facts, beyond)
        return finish_line(b"".join((LINE_START, b'"time":"', format_moment(moment), b'",', state, rest, b"}\n")))

    def _encode_plain_event(self, what: str, told: Mapping[str, object]) -> bytes | None:
        """Encode the member of an ordinary event on the fast path, or return None."""
        try:
            if type(told) is not dict or not self._plain.is_plain_object(told):
                return None
            written = encode(told)
        except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):
            return None
        return b'"%b":%b' % (what.encode(), written) if len(written) <= MAX_PLAIN_BYTES else None

    def past(self, asked: Iterable[k.HistoryCondition | k.Aggregate], facts: Facts) -> bytes:
        """Return the member with the histories that the decision used; empty if it used none."""
        found = told_past(asked, facts, self._redaction)
        return b'"history":' + encode(found) + b"," if found else b""

    def directory(self, rows: Iterable[EntityData], digest: Callable[[bytes], str]) -> tuple[str, bytes]:
        """Return the name and the line of the entity rows that decisions use; the name is their digest."""
        rest = self._rows(rows)
        name = digest(rest)
        return name, finish_line(LINE_START + b'"directory":' + encode(name) + b"," + rest + b"}\n")

    def looked_up(self, found: Mapping[EntityRef, RowResult], types: Iterable[str]) -> bytes:
        """Return the member with the rows that a decision looked up, including rows that are missing or whose source
        did not answer.
        """
        rest = self._rows(one for one in found.values() if isinstance(one, EntityData))
        unanswered = [[ref.type, ref.id] for ref, one in found.items() if isinstance(one, UnknownRow)]
        none = [[ref.type, ref.id] for ref, one in found.items() if one is None]
        about = b'"types":%b,"none":%b,"unanswered":%b' % (encode(sorted(types)), encode(none), encode(unanswered))
        return b'"looked_up":{%b,%b},' % (about, rest)

    def _rows(self, rows: Iterable[EntityData]) -> bytes:
        beyond: list[dict[str, object]] = []
        redacted = RedactedFacts(room=inf)  # the operator chose the names
        clean = [self._redaction.applied(encode_row(one), redacted) for one in rows]
        written = b'"entities":' + encode(to_json_value(clean, (), beyond))
        return encode_members(written, redacted.facts, beyond)


def finish_line(line: bytes) -> bytes:
    """Return a line that is safe to display and to search: no value that a caller chose contains the beginning of a
    line, which readers could take for a second line after an incomplete one."""
    if line.find(OBJECT_START, 1) > 0:
        line = line[:1] + line[1:].replace(OBJECT_START, b'{ "v":')
    return escape_unprintable(line)


def escape_unprintable(line: bytes) -> bytes:
    """Escape control characters, bidirectional marks and line separators, so that the line is safe to display."""
    if line.isascii() and b"\x7f" not in line:
        return line
    text = line.decode()
    return line if text[:-1].isprintable() else printable_json(text).encode()


def withhold_messages(decision: bytes) -> bytes:
    """Return the decision without the messages of rules, which could reveal redacted facts."""
    tree = msgspec.json.decode(decision)
    for entry in (*tree["reasons"], *tree["obligations"]):
        if entry.get("rule") is not None and entry.get("message") is not None:
            entry["message"] = WITHHELD_MESSAGE
    return encode(tree)


def encode_members(first: bytes, redacted: Sequence[RedactedFact], beyond: Sequence[dict[str, object]]) -> bytes:
    """Return the members that end a line: `first`, then the redacted facts and the values that JSON cannot represent,
    if there are any."""
    if not redacted and not beyond:
        return first
    parts = [first]
    parts += [b'"redacted":' + encode([{"fact": one.fact, "fingerprint": one.fingerprint} for one in redacted])]
    return b",".join([*parts, *([b'"beyond_json":' + encode(beyond)] if beyond else [])])
