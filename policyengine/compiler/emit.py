"""Expressions → lines of Python: two-valued and quick, for facts that are there and of their type.

Whatever is less plain makes the generated code return None, "not sure", and the request is decided with care. Names and
values of a policy never become code: they are constants (`C0`, `C1` …) that every rule of one shape brings for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import TypeAlias

from policyengine import kinds
from policyengine.compiler import reads
from policyengine.kinds import EntityRef, Scalar
from policyengine.runtime.patterns import Glob, compile_regex
from policyengine.runtime.request import ROOTS
from policyengine.runtime.values import LARGEST_INT, LONGEST_STRING, SMALLEST_INT, names_an_id
from policyengine.semantics import kernel as k
from policyengine.semantics.kleene import describe
from policyengine.source import Span

Path: TypeAlias = tuple[str, ...]
Columns: TypeAlias = Callable[[k.Attribute, bool, bool, str | None], object]
Kin: TypeAlias = Callable[[str], object]

UNSURE = "return None"
LASTING = ("root", "raw", "fact", "variable")  # what a variable of the same name further in does not change
# What every generated function is given; see `evaluator.py`.
PARAMETERS = "q, parts, agent, issuer, user, subject, scopes, moment"
# What it may call.
NAMESPACE: dict[str, object] = {
    name: getattr(reads, name)
    for name in (
        "ABSENT", "NOTHING", "age", "called", "calculated", "claimed", "duration", "during", "header", "instant",
        "known", "lifetime", "named", "negated", "plain_strings", "within",
    )
}  # fmt: skip
NAMESPACE["EntityRef"] = EntityRef


# Comparisons of an int with a limit that also keep it within 64 bits.
RANGES = {
    "<": f"{SMALLEST_INT} <= {{code}} < {{limit}}",
    "<=": f"{SMALLEST_INT} <= {{code}} <= {{limit}}",
    ">": f"{{limit}} < {{code}} <= {LARGEST_INT}",
    ">=": f"{{limit}} <= {{code}} <= {LARGEST_INT}",
}


def effort(node: k.Expr) -> int:
    """How much a condition costs for what it refutes: an equality is cheap and mostly false."""
    match node:
        case k.Compare("==", k.Fact(), k.Constant()):
            return 0
        case k.Fact() | k.Compare(_, k.Fact(), k.Constant()):
            return 1
        case _:
            return 2


class NotQuick(Exception):
    """There is no quick way to this: every request that needs it is decided with care."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the path, by its number, without what its pattern fixes at both ends."""

    index: int
    before: int = 0
    after: int = 0

    @property
    def code(self) -> str:
        plain = not self.before and not self.after
        return f"parts[{self.index}]" + ("" if plain else f"[{self.before}:{-self.after or ''}]")


@dataclass(frozen=True, slots=True)
class Bound:
    """What an endpoint binds: a capture, an entity by its id, the thing an action is about, an expression, or doubt."""

    how: Piece | k.Expr | str  # "resource": the request's own; "doubt": two patterns differ
    type: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What generated code may take as given at one endpoint: its kind, what it binds, the directory's columns."""

    kind: str  # "http", "tool", "action"
    bound: Mapping[Path, Bound]
    column: Columns
    kin: Kin
    records_chains: frozenset[str]
    claimed: Mapping[tuple[str, str], Mapping[str, str]]  # attributes a credential vouches for: by issuer, which claim


@dataclass(frozen=True, slots=True)
class Text:
    """An expression of Python. `of` is the entity type where it is an id that stands for a reference."""

    code: str
    of: str | None = None


@dataclass(slots=True)
class Writer:
    """Writes the body of one function, its constants, and for every line the place in the policy that it is for."""

    setting: Setting
    lines: list[str] = field(default_factory=list)
    spans: list[Span | None] = field(default_factory=list)
    constants: list[object] = field(default_factory=list)
    depth: int = 1
    span: Span | None = None
    _names: int = 0
    _seen: dict[tuple[object, ...], Text] = field(default_factory=dict)
    _places: dict[object, str] = field(default_factory=dict)

    # ── Lines ─────────────────────────────────────────────────────────────────────────────────

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)
        self.spans.append(self.span)

    def unless(self, condition: str) -> None:
        """Not sure, unless the condition holds."""
        self.line(f"if not ({condition}): {UNSURE}")

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """A nested block: what is read in it is not known after it."""
        self.line(head)
        before, length = dict(self._seen), len(self.lines)
        self.depth += 1
        if self.depth > 60:
            raise NotQuick("nested too deep for Python")
        yield
        if len(self.lines) == length:
            self.line("pass")
        self.depth -= 1
        self._seen = before

    @contextmanager
    def about(self, span: Span | None) -> Iterator[None]:
        before, self.span = self.span, span
        yield
        self.span = before

    def name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def put(self, code: str) -> str:
        name = self.name()
        self.line(f"{name} = {code}")
        return name

    def constant(self, value: object) -> str:
        """A constant by its name; the same value has one name."""
        key = (type(value), value) if isinstance(value, str | int | Decimal | timedelta) else id(value)
        if key not in self._places:
            self.constants.append(value)
            self._places[key] = f"C{len(self.constants) - 1}"
        return self._places[key]

    # ── Raw facts ─────────────────────────────────────────────────────────────────────────────

    def root(self, name: str) -> str:
        return self._once(("root", name), lambda: Text(self.put(f'q.get("{name}", NOTHING)'))).code

    def _once(self, key: tuple[object, ...], write: Callable[[], Text]) -> Text:
        found = self._seen.get(key)
        if found is None:
            found = write()
            self._seen[key] = found
        return found

    def raw(self, path: Path) -> str:
        """The raw fact, None where there is none. Roots are objects: the evaluator has looked."""
        return self._once(("raw", path), lambda: Text(self._raw(path))).code

    def _raw(self, path: Path) -> str:
        root, *steps = path
        if root not in ROOTS or not steps or root in ("params", "resource", "chain"):
            raise NotQuick(f"`{'.'.join(path)}`")
        if path[:2] == ("request", "headers") and len(path) == 3:
            return self.put(f"header({self.root('request')}, {self.constant(path[2].lower())})")
        code = self.root(root)
        for index, step in enumerate(steps):
            if index:
                self.unless(f"{code} is None or type({code}) is dict")
                code = self.put(f"NOTHING if {code} is None else {code}")
            known_name = not index and ROOTS[root] is not None
            code = self.put(f'{code}.get("{step}")' if known_name else f"{code}.get({self.constant(step)})")
        return code

    # ── Facts by their type ───────────────────────────────────────────────────────────────────

    def fact(self, node: k.Fact) -> Text:
        return self._once(("fact", node.path, node.type), lambda: self._fact(node))

    def _fact(self, node: k.Fact) -> Text:
        path = node.path
        bound = self.setting.bound.get(path)
        if bound is not None:
            return self._bound(bound, node)
        if any(path[:length] in self.setting.bound for length in range(2, len(path))):
            raise NotQuick("inside of what is bound")
        match path:
            case ("agent",) | ("user",) if isinstance(node.type, kinds.Ref):
                return Text(self._there(path[0]), path[0])
            case ("agent" | "user", "id"):
                return Text(self._there(path[0]))
            case ("time",):
                return Text(self.put("instant(moment)"))
            case ("credential" | "attestation" | "task", "age"):
                return self._sure(f'age(q, "{path[0]}", instant(moment))')
            case ("credential", "lifetime"):
                return self._sure("lifetime(q)")
            case ("credential", "scopes"):
                return Text(self._strings(self.raw(path), path))
            case ("chain", _):
                return self._chain(path[1])
            case ("approval", "granted"):
                return Text("False")
            case ("request", "method" | "path") | ("tool",):
                return self._endpoint(path)
            case ("request", "host"):
                return Text(self.put(f"{self._checked(self.raw(path), node.type, path)}.lower()"))
            case _:
                return Text(self._checked(self.raw(path), node.type, path))

    def _there(self, who: str) -> str:
        self.unless(f"{who} is not None")
        return who

    def _sure(self, code: str) -> Text:
        name = self.put(code)
        self.unless(f"{name} is not None")
        return Text(name)

    def _chain(self, name: str) -> Text:
        """Nobody stands before the presenter: requests with a chain are decided with care."""
        if name == "root":
            return self._sure("user if agent is None else agent")
        self.unless(f"issuer in {self.constant(self.setting.records_chains)}")
        match name:
            case "depth":
                return Text("0")
            case "agents":
                return Text(f"({self._sure('user if agent is None else agent').code},)")
            case _:
                return Text("()")

    def _endpoint(self, path: Path) -> Text:
        match path, self.setting.kind:
            case ("tool",), "tool":
                return Text("parts")
            case ("request", "path"), "http":
                raw = self.raw(path)  # plain, as the walk has seen: but for a last slash it is as it is decided
                return Text(self.put(f'{raw}[:-1] if {raw}[-1] == "/" and {raw} != "/" else {raw}'))
            case ("request", "method"), "http":
                raw = self.raw(path)
                return Text(self.put(f'"GET" if {raw} == "HEAD" else {raw}'))
            case _:
                raise NotQuick("a fact of another kind of endpoint")

    def _bound(self, bound: Bound, node: k.Fact) -> Text:
        match bound.how:
            case Piece() as piece if bound.type is None:
                if names_an_id(node.path[-1]) or node.type is Scalar.STRING:
                    return Text(self.put(piece.code))
                return self._sure(f"known({piece.code}, {self.constant(node.type)}, {self.constant(node.path[-1])})")
            case Piece() as piece:
                return self._reference(self.put(piece.code), str(bound.type), node.type)
            case "resource":
                code = self.put('q["resource"].get("id")')
                self.unless(f"type({code}) is str and {code} and {code}.isascii() and len({code}) < 1_000")
                return self._reference(code, str(bound.type), node.type)
            case str():
                raise NotQuick("two patterns bind it differently")
            case expression:
                return self._given(expression, node)

    def _reference(self, code: str, entity: str, type: kinds.Type) -> Text:
        if not isinstance(type, kinds.Ref) or entity not in type.entities:
            raise NotQuick("another entity than is declared")
        return Text(code, entity)

    def _given(self, expression: k.Expr, node: k.Fact) -> Text:
        """What `with` says, in a setting where nothing is bound yet."""
        if getattr(expression, "type", None) != node.type and not isinstance(node.type, kinds.Ref):
            raise NotQuick("bound to another type")
        before, seen = self.setting, self._seen
        self.setting, self._seen = replace(before, bound={}), {}
        found = self.value(expression)
        self.setting, self._seen = before, seen
        if isinstance(node.type, kinds.Ref) and found.of not in node.type.entities:
            raise NotQuick("another entity than is declared")
        return found

    def _checked(self, raw: str, type: kinds.Type, path: Path) -> str:
        """The raw fact, once it is sure to be a value of its type; what is odd but usable is made one."""
        match type:
            case Scalar.BOOL:
                self.unless(f"{raw} is True or {raw} is False")
                return raw
            case Scalar.INT | Scalar.NUMBER:
                return self._odd(raw, f"type({raw}) is int and {SMALLEST_INT} <= {raw} <= {LARGEST_INT}", type, path)
            case Scalar.STRING:
                empty = f"{raw} and " if names_an_id(path[-1]) else ""
                plain = f"type({raw}) is str and {empty}{raw}.isascii() and len({raw}) <= {LONGEST_STRING}"
                return self._odd(raw, plain, type, path)
            case kinds.Enum():
                self.unless(f"type({raw}) is str and {raw} in {self.constant(type.values)}")
                return raw
            case Scalar.DURATION:
                return self._sure(f"duration({raw})").code
            case kinds.Set(element=Scalar.STRING) | kinds.List(element=Scalar.STRING):
                return self._strings(raw, path)
            case kinds.Record():
                self.unless(f"type({raw}) is dict")
                return raw
            case kinds.Ref():
                raise NotQuick("a reference in the request")
            case _:
                return self._sure(f"known({raw}, {self.constant(type)}, {self.constant(path[-1])})").code

    def _odd(self, raw: str, plain: str, type: kinds.Type, path: Path) -> str:
        with self.block(f"if not ({plain}):"):
            self.line(f"{raw} = known({raw}, {self.constant(type)}, {self.constant(path[-1])})")
            self.unless(f"{raw} is not None")
        return raw

    def _strings(self, raw: str, path: Path) -> str:
        if names_an_id(path[-1]):
            raise NotQuick("a list of ids")
        self.unless(f"plain_strings({raw})")
        return raw

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
                raw = self.put(f"{self.value(base).code}.get({self.constant(name)})")
                return Text(self._checked(raw, type, (describe(node).rpartition(".")[2],)))
            case k.Variable(name):
                return self._seen["variable", name]
            case k.Collection(items):
                codes = [self.reference(self.value(item)) for item in items]
                return Text(self.put(f"({''.join(f'{code}, ' for code in codes)})"))
            case k.Named(_, expression):
                return self.value(expression)
            case k.Default():
                return self._default(node)
            case k.Arithmetic(operator, left, right):
                sides = f"{self.value(left).code}, {self.value(right).code}"
                return self._sure(f'calculated("{operator}", {sides})')
            case k.Negative(operand):
                return self._sure(f"negated({self.value(operand).code})")
            case k.Apply(_, (id_,), kinds.Ref() as type) if len(type.entities) == 1:
                code = self.value(id_).code
                self.unless(f"type({code}) is str and {code} and {code}.isascii()")
                return Text(code, next(iter(type.entities)))
            case k.Apply(function, arguments):
                given = "".join(f", {self.reference(self.value(one))}" for one in arguments)
                return self._sure(f"called({self.constant(function)}{given})")
            case _:
                return Text(self.test(node))

    def reference(self, text: Text) -> str:
        """A reference as such, where it stood as an id."""
        return text.code if text.of is None else f"EntityRef({self.constant(text.of)}, {text.code})"

    def _attribute(self, node: k.Attribute, *, as_set: bool = False) -> Text:
        if node.name == "id":
            base = self.value(node.base)
            return Text(base.code if base.of is not None else self.put(f"{base.code}.id"))
        code = self.looked_up(node, as_set)
        self.unless(f"{code} is not None and {code} is not ABSENT")
        only = self._only(node.type)
        return Text(code, only)

    def looked_up(self, node: k.Attribute, as_set: bool = False) -> str:
        """An attribute from the credential or the directory: None where it is not sure, ABSENT where there is none."""
        base = self.value(node.base)
        column = self.setting.column(node, self._only(node.type) is not None, as_set, base.of)
        row = f"{self.constant(column)}[{base.code}]"
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
        if base.code != base.of or node.inherited or not isinstance(node.type, Scalar | kinds.Enum | kinds.Set):
            self.unless(f"{self.raw(('credential', 'claims'))} is None")  # it may be the caller, by another way
            return None
        return names

    def _only(self, type: kinds.Type) -> str | None:
        """The one type of entity that a reference can be of: then its id is enough."""
        return next(iter(type.entities)) if isinstance(type, kinds.Ref) and len(type.entities) == 1 else None

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
                return self.looked_up(node), None
            case k.Fact(path) if path not in self.setting.bound and path[0] not in ("params", "resource", "chain"):
                if path in (("approval", "by"), ("approval", "age")):
                    return "None", lambda: Text("None")
                if len(path) == 1 or path[1] in ("age", "lifetime") or path[:2] == ("request", "headers"):
                    raise NotQuick("absence of what is made from others")
                return self.raw(path), lambda: self.fact(node)
            case _:
                raise NotQuick("absence of what is no fact")

    # ── Conditions that must be true ──────────────────────────────────────────────────────────

    @contextmanager
    def where(self, node: k.Expr) -> Iterator[None]:
        """A block that is reached only if the condition is surely true. What is most easily refuted comes first."""
        while isinstance(node, k.Named):
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
            case k.Compare("==", k.Fact() as fact, k.Constant(str() as text)) if self.is_raw(fact):
                return f"{self.raw(fact.path)} == {self.constant(text)}"
            case k.Compare(operator, k.Fact(path, Scalar.INT) as fact, k.Constant(int() as limit)) if (
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
        if isinstance(node, k.Named):
            return self.test(node.expression)
        return self._once(("test", node), lambda: Text(self._test(node))).code

    def _test(self, node: k.Expr) -> str:
        match node:
            case k.Not(operand):
                return self.put(f"not {self.test(operand)}")
            case k.And(items) | k.Or(items):
                cheap_first = tuple(sorted(items, key=effort))
                return self._chained(cheap_first, "if" if isinstance(node, k.And) else "if not")
            case k.Compare():
                return self._compare(node)
            case k.Contains():
                return self._contains(node)
            case k.Below(item, ancestor, strict, direct):
                relation = "parents" if direct else "above" if strict else "within"
                kin = self.put(f"{self.constant(self.setting.kin(relation))}[{self.reference(self.value(item))}]")
                self.unless(f"{kin} is not None")
                return self.put(f"{self.reference(self.value(ancestor))} in {kin}")
            case k.InNetwork(address, networks):
                return self._sure(f"within({self.value(address).code}, {self.value(networks).code})").code
            case k.InWindow(moment, window):
                return self._sure(f"during({self.constant(window)}, {self.value(moment).code})").code
            case k.Like(operand, pattern):
                return self.put(f"{self.constant(Glob(pattern))}.matches({self.value(operand).code})")
            case k.Matches(operand, pattern):
                return self.put(f"{self.constant(compile_regex(pattern))}.matches({self.value(operand).code})")
            case k.Overlaps(left, right):
                return self.put(f"not {self.as_set(left)}.isdisjoint({self.as_set(right)})")
            case k.Subset(left, right):
                return self.put(f"{self.as_set(left)} <= {self.as_set(right)}")
            case k.Present(operand):
                return self._present(operand)
            case k.Quantifier():
                return self._quantifier(node)
            case _:
                return self.value(node).code

    def _chained(self, items: tuple[k.Expr, ...], more: str) -> str:
        """Each item only where the ones before did not settle it."""
        name = self.name()
        self.line(f"{name} = {self.test(items[0])}")
        if len(items) > 1:
            with self.block(f"{more} {name}:"):
                rest = self._chained(items[1:], more)
                self.line(f"{name} = {rest}")
        return name

    def _compare(self, node: k.Compare) -> str:
        left, right = node.left, node.right
        types = [getattr(side, "type", None) for side in (left, right)]
        if any(isinstance(one, kinds.Record | kinds.List) for one in types):
            raise NotQuick("a comparison of lists or objects")
        if node.operator not in ("==", "!="):
            ranks = next((one for one in types if isinstance(one, kinds.Enum)), None)
            a, b = (self._rank(side, ranks) if ranks else self.value(side).code for side in (left, right))
            return self.put(f"{a} {node.operator} {b}")
        if any(isinstance(one, kinds.Set) for one in types):
            return self.put(f"{self.as_set(left)} {node.operator} {self.as_set(right)}")
        one, other = self.value(left), self.value(right)
        if one.of is not None and other.of is not None:
            same_type = one.of == other.of
            return self.put(f"{one.code} {node.operator} {other.code}") if same_type else str(node.operator == "!=")
        return self.put(f"{self.reference(one)} {node.operator} {self.reference(other)}")

    def _rank(self, node: k.Expr, ranks: kinds.Enum) -> str:
        if isinstance(node, k.Constant):
            return str(ranks.values.index(str(node.value)))
        return f"{self.constant(ranks.values)}.index({self.value(node).code})"

    def as_set(self, node: k.Expr) -> str:
        """A collection as a set of values that can be hashed."""
        while isinstance(node, k.Named):
            node = node.expression
        type = getattr(node, "type", None)
        element = getattr(type, "element", None)
        if not isinstance(element, Scalar | kinds.Enum | kinds.Ref):
            raise NotQuick("elements that are no plain values")
        match node:
            case k.Constant(tuple() as items):
                return self.constant(frozenset(items))
            case k.Attribute():
                return self._once(("set", node), lambda: self._attribute(node, as_set=True)).code
            case _:
                return self.put(f"frozenset({self.value(node).code})")

    def _contains(self, node: k.Contains) -> str:
        collection = node.collection
        while isinstance(collection, k.Named):
            collection = collection.expression
        item = self.value(node.item)
        if node.deep and (item.of is not None or isinstance(getattr(node.item, "type", None), kinds.Ref)):
            kin = self.put(f"{self.constant(self.setting.kin('within'))}[{self.reference(item)}]")
            self.unless(f"{kin} is not None")
            return self.put(f"not {kin}.isdisjoint({self.as_set(collection)})")
        if isinstance(collection, k.Fact) and isinstance(collection.type, kinds.Set | kinds.List):
            found = self._in_strings(collection, item)
            if found is not None:
                return found
        return self.put(f"{self.reference(item)} in {self.as_set(collection)}")

    def _in_strings(self, fact: k.Fact, item: Text) -> str | None:
        """Where a string is found in a raw list, the other elements do not matter."""
        plain = fact.type in (kinds.Set(Scalar.STRING), kinds.List(Scalar.STRING))
        if not plain or fact.path in self.setting.bound or fact.path[0] in ("chain", "params") or item.of is not None:
            return None
        raw = self.raw(fact.path)
        found = self.put(f"(type({raw}) is list or type({raw}) is tuple) and {item.code} in {raw}")
        self.unless(f"plain_strings({raw}) if not {found} else len({raw}) < 10_000")
        return found

    def _present(self, node: k.Expr) -> str:
        match node:
            case k.Fact(("agent" | "user" as who, "id")) | k.Fact(("agent" | "user" as who,)):
                return self.put(f"{who} is not None")
            case k.Fact(path) if path in self.setting.bound:
                self.fact(node)
                return "True"
            case k.Fact(("params", _)):
                return "False"
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
        domain = self.value(node.domain).code
        name, one, stop = self.put(str(node.word == "all")), self.name(), "" if node.word == "any" else "not "
        element = getattr(getattr(node.domain, "type", None), "element", None)
        if not isinstance(element, Scalar | kinds.Enum | kinds.Ref):
            raise NotQuick("elements that are no plain values")
        with self.block(f"for {one} in {domain}:"):
            self._seen = {key: text for key, text in self._seen.items() if key[0] in LASTING}
            self._seen["variable", node.variable] = Text(one)
            found = self.test(node.condition)
            with self.block(f"if {stop}{found}:"):
                self.line(f"{name} = {node.word == 'any'}")
                self.line("break")
        return name
