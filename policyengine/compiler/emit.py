"""Expressions → lines of Python: two-valued and quick, for facts that are there and of their type.

Whatever is less plain makes the generated code return None, "not sure", and the request is decided with care. Names and
values of a policy never become code: they are constants (`C0`, `C1` …) that every rule of one shape brings for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.compiler import pasts, reads
from policyengine.compiler.lines import NotQuick, Text
from policyengine.compiler.membership import MembershipLines
from policyengine.compiler.pending import surely_absent
from policyengine.runtime.letter_case import fold_case
from policyengine.runtime.patterns import Glob, compile_regex
from policyengine.runtime.request import CLIENT_ROOTS
from policyengine.runtime.values import MAX_INT, MIN_INT
from policyengine.spec.kleene import describe
from policyengine.typesystem import EntityRef, Scalar

# What every generated function is given; see `driver.py`.
PARAMETERS = "q, parts, agent, issuer, user, subject, scopes, moment"
LASTING = ("root", "raw", "fact", "fixed", "variable")  # what a variable of the same name further in does not change
# What it may call.
NAMESPACE: dict[str, object] = {
    name: getattr(reads, name)
    for name in (
        "ABSENT", "NOTHING", "absent", "age", "called", "calculated", "claimed", "duration", "during", "header", "host",
        "hashed", "instant", "known", "lifetime", "named", "negated", "plain_strings", "record", "texts", "things",
        "within",
    )
}  # fmt: skip
NAMESPACE |= {"EntityRef": EntityRef, "fold": fold_case, "surely_absent": surely_absent, **pasts.NAMESPACE}


KIN = {"in": "within", "below": "above", "child of": "parents"}  # which relatives the directory is asked for
# Comparisons of an int with a limit that also keep it within 64 bits.
RANGES = {
    "<": f"{MIN_INT} <= {{code}} < {{limit}}",
    "<=": f"{MIN_INT} <= {{code}} <= {{limit}}",
    ">": f"{{limit}} < {{code}} <= {MAX_INT}",
    ">=": f"{{limit}} <= {{code}} <= {MAX_INT}",
}


def effort(node: k.Expr) -> int:
    """How much a condition costs for what it refutes: an equality is cheap and mostly false."""
    match node:
        case k.Relation("==", k.Fact(), k.Constant()):
            return 0
        case k.Fact() | k.Relation("!=" | "<" | "<=" | ">" | ">=", k.Fact(), k.Constant()):
            return 1
        case k.HistoryCondition() | k.Not(k.HistoryCondition()) | k.Relation(_, k.Aggregate(), _):
            return 3
        case _:
            return 2


@dataclass(slots=True)
class Writer(MembershipLines):
    """Writes values and conditions."""

    # ── Values ────────────────────────────────────────────────────────────────────────────────

    def value(self, node: k.Expr) -> Text:
        """The value, known for sure; lines that make it so are written first."""
        match node:
            case k.Constant(EntityRef(type, id)):
                return Text(self.constant(id), type)
            case k.Constant(bool() as flag):
                return Text(str(flag))
            case k.Constant(known):
                return Text(self.constant(known))
            case k.Fact():
                return self.fact(node)
            case k.Attribute():
                return self._once(("value", node), lambda: self._attribute(node))
            case k.Member(base, name, type):
                raw = self.put(f"{self.value(base).code}.get({self.word(name)})")
                return Text(self._checked(raw, type, (describe(node).rpartition(".")[2],)))
            case k.Variable(name):
                return self._seen["variable", name]
            case k.Collection(items):
                codes = [self.reference(self.value(item)) for item in items]
                return Text(self.put(f"({''.join(f'{code}, ' for code in codes)})"))
            case k.DefinitionRef(_, expression):
                return self.value(expression)
            case k.Default():
                return self._default(node)
            case k.Arithmetic(operator, left, right):
                sides = f"{self.value(left).code}, {self.value(right).code}"
                return self._sure(f'calculated("{operator}", {sides})')
            case k.UnaryMinus(operand):
                return self._sure(f"negated({self.value(operand).code})")
            case k.Call(_, (id_,), typesystem.RefType() as type) if len(type.entities) == 1:
                code = self.value(id_).code
                self.unless(f"type({code}) is str and {code} and {code}.isascii()")
                return Text(code, next(iter(type.entities)))
            case k.Call(function, arguments):
                given = "".join(f", {self.reference(self.value(one))}" for one in arguments)
                return self._sure(f"called({self.word(function)}{given})")
            case k.PastFact():
                return self.past(node)
            case k.Aggregate():
                return self._once(("aggregate", node), lambda: self.aggregate(node))
            case _:
                return Text(self.test(node))

    def reference(self, text: Text) -> str:
        """A reference as such, where it stood as an id."""
        return text.code if text.of is None else f"EntityRef({self.word(text.of)}, {text.code})"

    def _attribute(self, node: k.Attribute, *, as_set: bool = False, ids: bool | None = None) -> Text:
        if node.name == "id":
            base = self.value(node.base)
            return Text(base.code if base.of is not None else self.put(f"{base.code}.id"))
        only = self._only(node.type)
        by_id = only is not None if ids is None else ids
        code = self.looked_up(node, as_set, by_id)
        self.unless(f"{code} is not None and {code} is not ABSENT")
        return Text(code, only if by_id else None)

    def looked_up(self, node: k.Attribute, as_set: bool = False, ids: bool = False) -> str:
        """An attribute from the credential or the directory: None where it is not sure, ABSENT where there is none.

        `ids`: references as the ids that stand for them.
        """
        base = self.value(node.base)
        column = self.setting.column(node, ids, as_set, base.of)
        row = f"{self.word(column)}[{base.code}]"
        names = self._claims(node, base)
        if names is None:
            return self.put(row)
        name = self.put(f"claimed(q, issuer, {self.constant(names)})")
        with self.block(f"if {name} is None:"):
            self.line(f"{name} = {row}")
        with self.block("else:"):
            checked = self._checked(name, node.type, (node.name,))
            self.line(f"{name} = {f'frozenset({checked})' if as_set else checked}")
        return name

    def _claims(self, node: k.Attribute, base: Text) -> Mapping[str, str] | None:
        """Which claim, by its issuer, comes before the directory; only of the caller, and only plain values."""
        types = {base.of} if base.of is not None else getattr(getattr(node.base, "type", None), "entities", set())
        names = next((found for type in types if (found := self.setting.claimed.get((type, node.name)))), None)
        if names is None:
            return None
        plain = isinstance(getattr(node.type, "element", node.type), Scalar | typesystem.EnumType)
        if base.code != base.of or node.inherited or not plain:
            self.unless(f"{self.raw(('credential', 'claims'))} is None")  # it may be the caller, by another way
            return None
        return names

    def _only(self, type: typesystem.Type) -> str | None:
        """The one type of entity that a reference can be of: then its id is enough."""
        return next(iter(type.entities)) if isinstance(type, typesystem.RefType) and len(type.entities) == 1 else None

    def _default(self, node: k.Default) -> Text:
        name = self.name()
        raw, checked = self._maybe(node.operand)
        with self.block(f"if {raw} is {'ABSENT' if checked is None else 'None'}:"):
            self.line(f"{name} = {self.reference(self.value(node.fallback))}")
        with self.block("else:"):
            if checked is None:
                self.unless(f"{raw} is not None")
            found = Text(raw, self._only(node.type)) if checked is None else checked()
            self.line(f"{name} = {self.reference(found)}")
        return Text(name)

    def _maybe(self, node: k.Expr) -> tuple[str, Callable[[], Text] | None]:
        """The raw fact (None: absent) and how to check it, or an attribute (ABSENT: absent) and nothing to check."""
        match node:
            case k.Attribute():
                return self.looked_up(node, ids=self._only(node.type) is not None), None
            case k.Fact(path) if path not in self.setting.bound and path[0] not in ("params", "resource", "chain"):
                if path in (("approval", "by"), ("approval", "age")):
                    return "None", lambda: Text("None")
                if len(path) == 1 or path[1] in ("age", "lifetime") or path[:2] == ("request", "headers"):
                    raise NotQuick("absence of what is made from others")
                raw = self.raw(path)
                with self.block(f'if {raw} is None and "pending" in q:'):
                    self.unless(f"surely_absent(q, {self.word(path)})")
                if path[0] in CLIENT_ROOTS and len(path) > 1:
                    steps = "".join(f", {self.word(step)}" for step in path[1:])
                    self.unless(f"{raw} is not None or absent({self.root(path[0])}{steps})")
                return raw, lambda: self.fact(node)
            case _:
                raise NotQuick("absence of what is no fact")

    # ── Conditions that must be true ──────────────────────────────────────────────────────────

    @contextmanager
    def where(self, node: k.Expr) -> Iterator[None]:
        """A block that is reached only if the condition is surely true. What is most easily refuted comes first."""
        while isinstance(node, k.DefinitionRef):
            node = node.expression
        if isinstance(node, k.And):
            with ExitStack() as blocks:
                for item in sorted(node.items, key=effort):
                    blocks.enter_context(self.where(item))
                yield
        else:
            with self.block(f"if {self._surely(node)}:"):
                yield

    def _surely(self, node: k.Expr) -> str:
        """Code that is true only where the condition is. What is equal to a plain text needs no check of its own."""
        match node:
            case k.Relation("==", k.Fact() as fact, k.Constant(str() as text)) if self.is_raw(fact):
                raw = self.raw(fact.path)
                return f"type({raw}) is str and {raw} == {self.constant(text)}"
            case k.Relation(operator, k.Fact(path, Scalar.INT) as fact, k.Constant(int() as limit)) if (
                self.is_raw(fact) and operator in RANGES
            ):
                code = self.raw(path)
                return f"type({code}) is int and {RANGES[operator].format(code=code, limit=self.constant(limit))}"
            case k.Fact(path, Scalar.BOOL) if self.is_raw(node):
                return f"{self.raw(path)} is True"
            case _:
                return self.test(node)

    def is_raw(self, fact: k.Fact) -> bool:
        """Whether the fact is what the request says, and nothing is made of it."""
        path = fact.path
        return (
            len(path) == 2
            and path not in self.setting.bound
            and path[0] in ("context", "body", "args", "attestation", "credential", "task")
            and path[1] not in ("age", "lifetime")
        )

    # ── Conditions ────────────────────────────────────────────────────────────────────────────

    def test(self, node: k.Expr) -> str:
        """A condition that is sure to be True or False."""
        if isinstance(node, k.DefinitionRef):
            return self.test(node.expression)
        return self._once(("test", node), lambda: Text(self._test(node))).code

    def _test(self, node: k.Expr) -> str:
        match node:
            case k.Not(operand):
                return self.put(f"not {self.test(operand)}")
            case k.And(items) | k.Or(items):
                cheap_first = tuple(sorted(items, key=effort))
                return self._chained(cheap_first, "if" if isinstance(node, k.And) else "if not")
            case k.InWindow(moment, window):
                return self._sure(f"during({self.constant(window)}, {self.value(moment).code})").code
            case k.Relation():
                return self._relation(node)
            case k.IsPresent(operand):
                return self._present(operand)
            case k.HasRow(entity):
                return self._kin("row", self.value(entity))
            case k.Quantifier():
                return self._quantifier(node)
            case k.HistoryCondition():
                return self.happened(node)
            case _:
                return self.value(node).code

    def _relation(self, node: k.Relation) -> str:
        """What is not written here is decided with care, as the specification says."""
        match node.operator, node.left, node.right:
            case (("==" | "!=" | "<" | "<=" | ">" | ">="), _, _):
                return self._compare(node)
            case (("has" | "holds"), _, _):
                return self._contains(node)
            case ("in" | "below" | "child of") as word, item, ancestor:
                kin = self._kin(KIN[word], self.value(item))
                return self.put(f"{self._as_reference(ancestor)} in {kin}")
            case "within", address, networks:
                return self._sure(f"within({self.value(address).code}, {self.value(networks).code})").code
            case "like", text, k.Constant(str() as pattern):
                return self.put(f"{self.constant(Glob(pattern))}.matches({self.value(text).code})")
            case "matches", text, k.Constant(str() as pattern):
                return self.put(f"{self.constant(compile_regex(pattern))}.matches({self.value(text).code})")
            case "overlaps", left, right:
                return self._overlaps(left, right)
            case "subset of", left, right:
                return self.put(f"{self.as_set(left)} <= {self.as_set(right)}")
            case _:
                raise NotQuick(f"`{node.operator}`")

    def _chained(self, items: tuple[k.Expr, ...], more: str) -> str:
        """Each item only where the ones before did not settle it."""
        name = self.name()
        self.line(f"{name} = {self.test(items[0])}")
        if len(items) > 1:
            with self.block(f"{more} {name}:"):
                rest = self._chained(items[1:], more)
                self.line(f"{name} = {rest}")
        return name

    def _compare(self, node: k.Relation) -> str:
        left, right = node.left, node.right
        types = [getattr(side, "type", None) for side in (left, right)]
        if any(isinstance(one, typesystem.RecordType | typesystem.ListType) for one in types):
            raise NotQuick("a comparison of lists or objects")
        if node.operator not in ("==", "!="):
            ranks = next((one for one in types if isinstance(one, typesystem.EnumType)), None)
            a, b = (self._rank(side, ranks) if ranks else self.value(side).code for side in (left, right))
            return self.put(f"{a} {node.operator} {b}")
        if any(isinstance(one, typesystem.SetType) for one in types):
            return self.put(f"{self.as_set(left)} {node.operator} {self.as_set(right)}")
        one, other = self.value(left), self.value(right)
        if one.of is not None and other.of is not None:
            same_type = one.of == other.of
            return self.put(f"{one.code} {node.operator} {other.code}") if same_type else str(node.operator == "!=")
        return self.put(f"{self.reference(one)} {node.operator} {self.reference(other)}")

    def _rank(self, node: k.Expr, ranks: typesystem.EnumType) -> str:
        if isinstance(node, k.Constant):
            return str(ranks.values.index(str(node.value)))
        return f"{self.word(ranks.values)}.index({self.value(node).code})"

    def _present(self, node: k.Expr) -> str:
        match node:
            case k.Fact(("agent" | "user" as who, "id")) | k.Fact(("agent" | "user" as who,)):
                return self.put(f"{who} is not None")
            case k.Fact(path) if path in self.setting.bound:
                self.fact(node)
                return "True"
            case k.Fact(("params", _)):
                return "False"
            case k.PastFact():
                return self.past_is_there(node)
        raw, checked = self._maybe(node)
        absent = "ABSENT" if checked is None else "None"
        name = self.put(f"{raw} is not {absent}")
        with self.block(f"if {name}:"):
            if checked is None:
                self.unless(f"{raw} is not None")
            else:
                checked()
        return name

    def _quantifier(self, node: k.Quantifier) -> str:
        if self.event is not None:
            raise NotQuick("a loop inside of the loop over events")
        domain = self.value(node.domain).code
        name, one, stop = self.put(str(node.word == "all")), self.name(), "" if node.word == "any" else "not "
        element = getattr(getattr(node.domain, "type", None), "element", None)
        if not isinstance(element, Scalar | typesystem.EnumType | typesystem.RefType):
            raise NotQuick("elements that are no plain values")
        self.read_before(node.condition)
        with self.block(f"for {one} in {domain}:"):
            self._seen = {key: text for key, text in self._seen.items() if key[0] in LASTING}
            self._seen["variable", node.variable] = Text(one)
            found = self.test(node.condition)
            with self.block(f"if {stop}{found}:"):
                self.line(f"{name} = {node.word == 'any'}")
                self.line("break")
        return name
