"""Membership → lines of Python: what is in a set, and who is in what, by one look into a set where that is sure."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.compiler.lines import NotQuick, Text
from policyengine.compiler.pasts import PastLines
from policyengine.spec.work import is_fixed
from policyengine.typesystem import EntityRef, Scalar

# Large numbers and networks can be made to share a hash.
HARD_TO_HASH = frozenset({Scalar.NUMBER, Scalar.CIDR})


def is_set(node: k.Expr) -> bool:
    return isinstance(getattr(node, "type", None), typesystem.SetType)


def surely_read(node: k.Expr) -> Iterator[k.Expr]:
    """What is inside of a condition, but for what may be absent and what events of the past say."""
    yield node
    if not isinstance(node, k.Default | k.IsPresent | k.HistoryCondition | k.Aggregate):
        for part in k.children(node):
            yield from surely_read(part)


def inherited(node: k.Expr) -> bool:
    """Whether only a part of it may be known."""
    while isinstance(node, k.DefinitionRef):
        node = node.expression
    return isinstance(node, k.Attribute) and node.inherited


@dataclass(slots=True)
class MembershipLines(PastLines):
    """Writes what asks collections and the directory who is in what."""

    @abstractmethod
    def reference(self, text: Text) -> str:
        """A reference as such, where it stood as an id."""

    @abstractmethod
    def _attribute(self, node: k.Attribute, *, as_set: bool = False, ids: bool | None = None) -> Text:
        """An attribute that is there; see `emit.py`."""

    @abstractmethod
    def _only(self, type: typesystem.Type) -> str | None:
        """The one type of entity that a reference can be of."""

    @property
    def in_loop(self) -> bool:
        return self.event is not None or any(key[0] == "variable" for key in self._seen)

    def as_set(self, node: k.Expr) -> str:
        """A collection, all of it, as a set of values that can be hashed."""
        code = self._known_part(node)
        self._is_whole(node, code)
        return code

    def _is_whole(self, node: k.Expr, code: str, unless: str = "") -> None:
        """Of an inherited set a part may be known alone: not sure then, unless something needs no more than that."""
        if inherited(node):
            self.unless(f"{unless and f'{unless} or '}{code}.__class__ is frozenset")

    def _known_part(self, node: k.Expr) -> str:
        """All that is surely in a collection."""
        while isinstance(node, k.DefinitionRef):
            node = node.expression
        if is_fixed(node):  # read before the loop around it
            return self._once(("fixed", node), lambda: Text(self._read_whole(node))).code
        return self._read_whole(node)

    def read_before(self, condition: k.Expr) -> None:
        """Before a loop, the collections that each turn of it would read anew."""
        for node in surely_read(condition):
            match node:
                case k.Relation("has" | "holds", collection):
                    sides: tuple[k.Expr, ...] = (collection,)
                case k.Relation(_, left, right) if node.row.operands is k.Operands.COLLECTIONS:
                    sides = left, right
                case k.Relation("==" | "!=", left, right) if is_set(left) and is_set(right):
                    sides = left, right
                case k.Fact(type=typesystem.SetType() | typesystem.ListType()):
                    self.value(node)
                    continue
                case _:
                    continue
            for side in sides:
                if is_fixed(side):
                    self._known_part(side)

    def _read_whole(self, node: k.Expr) -> str:
        type = getattr(node, "type", None)
        element = getattr(type, "element", None)
        if not isinstance(element, Scalar | typesystem.EnumType | typesystem.RefType):
            raise NotQuick("elements that are no plain values")
        match node:
            case k.Constant(tuple() as items):
                return self.constant(frozenset(items))
            case k.Attribute():
                return self._once(("set", node), lambda: self._attribute(node, as_set=True)).code
            case _:
                code = self.value(node).code
                return self._sure(f"hashed({code})").code if element in HARD_TO_HASH else self.put(f"frozenset({code})")

    def _contains(self, node: k.Relation) -> str:
        collection = node.left
        while isinstance(collection, k.DefinitionRef):
            collection = collection.expression
        item = self.value(node.right)
        if node.operator == "holds" and (
            item.of is not None or isinstance(getattr(node.right, "type", None), typesystem.RefType)
        ):
            kin, code = self._kin("within", item), self._known_part(collection)
            return self._found(f"not {kin}.isdisjoint({code})", collection, code)
        if item.of is not None and isinstance(collection, k.Attribute) and self._only_element(collection) == item.of:
            code = self._attribute(collection, as_set=True, ids=True).code
            return self._found(f"{item.code} in {code}", collection, code)
        if isinstance(collection, k.Fact) and isinstance(collection.type, typesystem.SetType | typesystem.ListType):
            found = None if self.in_loop else self._in_strings(collection, item)
            if found is not None:
                return found
        code = self._known_part(collection)
        return self._found(f"{self.reference(item)} in {code}", collection, code)

    def _found(self, test: str, collection: k.Expr, code: str) -> str:
        """A test that is true for what is surely in a collection, and false for what is surely not."""
        found = self.put(test)
        self._is_whole(collection, code, unless=found)
        return found

    def _overlaps(self, left: k.Expr, right: k.Expr) -> str:
        one, other = self._known_part(left), self._known_part(right)
        found = self.put(f"not {one}.isdisjoint({other})")
        self._is_whole(left, one, unless=found)
        self._is_whole(right, other, unless=found)
        return found

    def _kin(self, relation: str, item: Text) -> str:
        """All that an entity is in, surely; what is in many conditions is looked up once."""

        def write() -> Text:
            found = self.put(f"{self.word(self.setting.kin(relation, item.of))}[{item.code}]")
            self.unless(f"{found} is not None")
            return Text(found)

        return self._once(("kin", relation, item), write).code

    def _as_reference(self, node: k.Expr) -> str:
        """A reference as it stands in the directory, without making it anew."""
        match node:
            case k.Constant(EntityRef() as ref):
                return self.constant(ref)
            case k.Attribute() if node.name != "id":
                return self._once(("reference", node), lambda: self._attribute(node, ids=False)).code
            case _:
                return self.reference(self.value(node))

    def _only_element(self, node: k.Attribute) -> str | None:
        return (
            self._only(node.type.element) if isinstance(node.type, typesystem.SetType | typesystem.ListType) else None
        )

    def _in_strings(self, fact: k.Fact, item: Text) -> str | None:
        """Where a string is found in a raw list, the other elements do not matter."""
        plain = fact.type in (typesystem.SetType(Scalar.STRING), typesystem.ListType(Scalar.STRING))
        if not plain or fact.path in self.setting.bound or fact.path[0] in ("chain", "params") or item.of is not None:
            return None
        raw = self.raw(fact.path)
        self.unless(f"texts({raw})")
        found = self.put(f"{item.code} in {raw}")
        self.unless(f"{found} or plain_strings({raw})")
        return found
