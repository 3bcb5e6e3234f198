"""What generated code calls where a fact is not of the plainest kind. None always means: not sure, decide with care.

These say nothing of their own: `coerce`, the functions and the arithmetic of the runtime decide what a value is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.runtime import arithmetic, calendar_windows, decode, functions
from policyengine.runtime.header_names import has_other_spelling
from policyengine.runtime.host_names import parse_host
from policyengine.runtime.request import HttpEndpoint, Request, has_other_case
from policyengine.runtime.snapshot import Entities
from policyengine.runtime.values import Invalid, Unknown, Value, coerce
from policyengine.spec.evaluate import in_networks
from policyengine.spec.facts import Facts
from policyengine.spec.kleene import is_absent
from policyengine.time_formats import parse_duration
from policyengine.typesystem import EntityRef, Scalar

Members: TypeAlias = Mapping[str, object]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NOTHING: Members = MappingProxyType({})
FEW = 100  # values, of which it does not matter that all have one hash
LONG = 10_000  # characters, or elements: what is longer gets a second look


def settled(value: Value) -> object:
    """The value if it is known through and through, else None."""
    if isinstance(value, Unknown) or (isinstance(value, tuple) and any(isinstance(one, Unknown) for one in value)):
        return None
    return value


def hashed(values: tuple[Value, ...]) -> frozenset[Value] | None:
    """The values as a set; of many that are no plain whole numbers their hashes may be the same."""
    if len(values) > FEW and not all(type(one) is int for one in values):
        return None
    return frozenset(values)


def known(raw: object, type: typesystem.Type, fact: str) -> object:
    """A raw fact as a value of its type; absent, pending and unusable ones are None."""
    try:
        return settled(coerce(decode.from_python(raw), type, fact))
    except decode.DecodeError:
        return None


def named(text: object) -> bool:
    """Whether it is a name as it stands."""
    return type(text) is str and text != "" and text.isascii() and len(text) < LONG


only_str = frozenset([str]).issuperset  # a class of its own may say that it equals anything


def plain_strings(raw: object) -> bool:
    """Whether a list can be searched as it is: every element is a string that needs no second look."""
    if type(raw) is not list and type(raw) is not tuple:
        return False
    if len(raw) >= LONG or not only_str(map(type, raw)):
        return False
    joined = "".join(raw)
    return joined.isascii() and len(joined) < LONG


def texts(raw: object) -> bool:
    """Whether a list can be searched for a text of the policy: every element is exactly a string, whatever is in it."""
    return (type(raw) is list or type(raw) is tuple) and len(raw) < LONG and only_str(map(type, raw))


def record(raw: object) -> bool:
    """Whether an object can be asked for members by their names."""
    return type(raw) is dict and only_str(map(type, raw))


def host(raw: object) -> str | None:
    found = parse_host(raw) if type(raw) is str else None
    return found if type(found) is str else None


def things(raw: object, type_: typesystem.Collection, fact: str) -> object:
    """References by type and id, as most are written; others as `known` has them."""
    if (
        (type(raw) is not list and type(raw) is not tuple)
        or len(raw) >= LONG
        or not isinstance(type_.element, typesystem.RefType)
    ):
        return known(raw, type_, fact)
    found: dict[EntityRef, None] = {}
    for one in raw:
        name, id_ = (one.get("type"), one.get("id")) if type(one) is dict and len(one) == 2 else (None, None)
        if type(name) is not str or name not in type_.element.entities or not named(id_):
            return known(raw, type_, fact)
        found[EntityRef(name, id_)] = None  # type: ignore[arg-type]  # a name is a text
    return tuple(found) if len(found) == len(raw) or isinstance(type_, typesystem.SetType) else known(raw, type_, fact)


def header(request: Members, name: str) -> object:
    """The raw header, if every name is in lower case already, else two of them could be the same; and if none that is
    there could be taken for one that is not."""
    headers = request.get("headers")
    if headers is None:
        return None
    if type(headers) is not dict or not all(type(one) is str and one == one.lower() for one in headers):
        return UNSURE
    found = headers.get(name)
    return UNSURE if found is None and has_other_spelling(headers, name) else found


def absent(members: object, *steps: str) -> bool:
    """Whether a fact that is not there is nowhere on its way there in another case."""
    for step in steps:
        if not members:
            return True
        if type(members) is not dict or not all(type(one) is str for one in members) or has_other_case(members, step):
            return False
        members = members.get(step)
    return members is None


UNSURE = Invalid("a header that only the specification reads")


def claimed(q: Mapping[str, Members], issuer: object, names: Mapping[object, str]) -> object:
    """The raw claim by which this issuer vouches for an attribute of the caller, if it does."""
    claims = q.get("credential", NOTHING).get("claims")
    name = names.get(issuer)
    return claims.get(name) if type(claims) is dict and name is not None else None


# ── Time ──────────────────────────────────────────────────────────────────────────────────────


def instant(nanoseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=nanoseconds // 1000)


def nanoseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND * 1000


@lru_cache(maxsize=4096)
def _duration(text: str) -> timedelta | None:
    return parse_duration(text)


def duration(raw: object) -> object:
    """A duration that travels as text: few texts, seen again and again."""
    return _duration(raw) if type(raw) is str and len(raw) < 100 else known(raw, Scalar.DURATION, "")


def age(q: Mapping[str, Members], root: str, now: datetime) -> object:
    """How old the credential, attestation or task is: as given, or since its issue. Nothing is issued in the future."""
    members = q.get(root) or NOTHING
    given = members.get("age")
    if given is not None:
        found = duration(given)
    else:
        issued = known(members.get("issued_at"), Scalar.TIME, "")
        found = now - issued if isinstance(issued, datetime) else None
    return found if isinstance(found, timedelta) and found >= timedelta(0) else None


def lifetime(q: Mapping[str, Members]) -> object:
    """How long the credential lasts in all: as given, or from issue to expiry."""
    members = q.get("credential") or NOTHING
    given = members.get("lifetime")
    if given is not None:
        found = duration(given)
    else:
        start, end = (known(members.get(name), Scalar.TIME, "") for name in ("issued_at", "expires_at"))
        found = end - start if isinstance(start, datetime) and isinstance(end, datetime) else None
    return found if isinstance(found, timedelta) and found >= timedelta(0) else None


def moment(raw: object) -> object:
    """A time; what is one in UTC, as those of verified tokens are, is spared the reading."""
    if type(raw) is datetime and raw.tzinfo is UTC and 2 <= raw.year <= 9998:
        return raw
    return known(raw, Scalar.TIME, "")


def in_force(credential: Members, now: datetime) -> bool:
    """Whether the credential surely holds now, by what it says of its times."""
    issued, expires = credential.get("issued_at"), credential.get("expires_at")
    begun = moment(issued) if issued is not None else now
    ends = moment(expires) if expires is not None else now + MICROSECOND
    return isinstance(begun, datetime) and isinstance(ends, datetime) and begun <= now < ends


# ── Calculation ───────────────────────────────────────────────────────────────────────────────


def calculated(operator: str, left: object, right: object) -> object:
    operation = {"+": arithmetic.add, "-": arithmetic.sub, "*": arithmetic.mul}[operator]
    return settled(operation(left, right))  # type: ignore[arg-type]


def negated(value: object) -> object:
    return settled(arithmetic.neg(value))  # type: ignore[arg-type]


def called(function: str, *arguments: object) -> object:
    return settled(functions.call_function(function, arguments))  # type: ignore[arg-type]


def within(address: object, networks: object) -> object:
    return settled(in_networks(address, networks))  # type: ignore[arg-type]


def during(window: calendar_windows.Window, moment: datetime) -> object:
    return settled(calendar_windows.contains(window, moment))


# ── The directory ─────────────────────────────────────────────────────────────────────────────


class Absent:
    """There is no such attribute: what `else` and `is absent` speak of."""


ABSENT = Absent()


class LowerBound(frozenset[object]):
    """A set of which more elements may exist: what is in it is in it, of anything else nobody knows."""


class Column(dict[object, object]):
    """One attribute of the entities of a directory, by entity, as generated code wants it: read once, remembered.

    Its keys are references, or ids where one `type` alone is meant. What is not known, through and through, is None.
    Only entities that the directory has are remembered, so it never outgrows the directory.
    """

    def __init__(self, read: Callable[[EntityRef], object], has: Callable[[EntityRef], bool], type: str | None) -> None:
        super().__init__()
        self.read, self.has, self.type = read, has, type

    __hash__ = object.__hash__  # type: ignore[assignment]  # one column is not another, whatever they remember

    def __missing__(self, key: object) -> object:
        ref = key if isinstance(key, EntityRef) else EntityRef(str(self.type), str(key))
        found = self.read(ref)
        if self.has(ref):
            self[key] = found
        return found


def facts_of_directory(kernel: k.Kernel, entities: Entities) -> Facts:
    """Facts about entities only, for columns."""
    nobody = Request(HttpEndpoint("GET", "/", ()))
    return Facts(kernel, nobody, entities, EPOCH, {}, {})


def attribute(facts: Facts, node: k.Attribute, *, ids: bool, as_set: bool) -> Callable[[EntityRef], object]:
    """Reads an attribute: a reference as its id (`ids`), a collection as a set (`as_set`)."""

    def read(ref: EntityRef) -> object:
        value = facts.attribute(ref, node)
        if is_absent(value):
            return ABSENT
        if as_set and node.inherited and isinstance(value, tuple) and settled(value) is None:
            return LowerBound(one.id if ids and isinstance(one, EntityRef) else one for one in known_among(value))
        found = settled(value)
        found = ids_of(found) if ids else found
        return frozenset(found) if as_set and isinstance(found, tuple) else found

    return read


def known_among(value: tuple[Value, ...]) -> Iterator[Value]:
    return (one for one in value if not isinstance(one, Unknown))


def ids_of(found: object) -> object:
    """The ids of references; what is not known stays so."""
    match found:
        case EntityRef(_, id):
            return id
        case tuple():
            return tuple(one.id for one in found if isinstance(one, EntityRef))
        case _:
            return found


def kin(entities: Entities, relation: str) -> Callable[[EntityRef], object]:
    """What an entity is in: itself included (`within`), only others (`above`), or directly (`parents`)."""
    if relation == "row":  # not whom it is beside, but whether it is there
        return entities.has_row

    def read(ref: EntityRef) -> object:
        found = entities.parents(ref) if relation == "parents" else entities.ancestors(ref)
        own = (ref,) if relation == "within" else ()
        return frozenset((*found.refs, *own)) if found.complete else None

    return read
