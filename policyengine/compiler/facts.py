"""Facts → lines of Python: where each comes from, and that it is there and of its type."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.compiler.lines import Lines, NotQuick, Text
from policyengine.compiler.reads import Column
from policyengine.runtime.values import MAX_INT, MAX_STRING_LENGTH, MIN_INT, is_id_fact
from policyengine.typesystem import Scalar
from policyengine.vocabulary import NEUTRAL_VALUES, ROOTS

Path: TypeAlias = tuple[str, ...]
Columns: TypeAlias = Callable[[k.Attribute, bool, bool, str | None], Column]
Kin: TypeAlias = Callable[[str, str | None], Column]


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


class Recall(Protocol):
    """What a store in this process tells of its histories at once; see `stores/memory/history_view.py`."""

    def changes(self) -> int: ...
    def looking(self, watch: str, within: int, place: int | None) -> Callable[..., object]: ...
    def counting(self, watch: str, within: int) -> Callable[[str, int], object]: ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What generated code may take as given at one endpoint: its kind, what it binds, the directory's columns."""

    kind: str  # "http", "tool", "action"
    bound: Mapping[Path, Bound]
    column: Columns
    kin: Kin
    records_chains: frozenset[str]
    claimed: Mapping[tuple[str, str], Mapping[str, str]]  # attributes a credential vouches for: by issuer, which claim
    recall: Recall | None = None


@dataclass(slots=True)
class FactLines(Lines):
    """Writes the facts that an endpoint's setting tells of."""

    setting: Setting = field(kw_only=True)

    @abstractmethod
    def value(self, node: k.Expr) -> Text:
        """The value of an expression; see `emit.py`."""

    def root(self, name: str) -> str:
        return self._once(("root", name), lambda: Text(self.put(f'q.get("{name}", NOTHING)'))).code

    def raw(self, path: Path) -> str:
        """The raw fact, None where there is none. Roots are objects: the evaluator has looked."""
        return self._once(("raw", path), lambda: Text(self._raw(path))).code

    def _raw(self, path: Path) -> str:
        root, *steps = path
        if root not in ROOTS or not steps or root in ("params", "resource", "chain"):
            raise NotQuick(f"`{'.'.join(path)}`")
        if path[:2] == ("request", "headers") and len(path) == 3:
            return self.put(f"header({self.root('request')}, {self.word(path[2].lower())})")
        code = self.root(root)
        for index, step in enumerate(steps):
            if index:
                self.unless(f"{code} is None or record({code})")
                code = self.put(f"NOTHING if {code} is None else {code}")
            known_name = not index and ROOTS[root] is not None
            code = self.put(f'{code}.get("{step}")' if known_name else f"{code}.get({self.word(step)})")
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
            case ("agent",) | ("user",) if isinstance(node.type, typesystem.RefType):
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
            case ("cluster", "id"):
                return self._sure("user if agent is None else agent")
            case _ if path in NEUTRAL_VALUES:
                return Text(self.constant(NEUTRAL_VALUES[path]))
            case ("request", "method" | "path") | ("tool",):
                return self._endpoint(node)
            case ("request", "host"):
                return self._sure(f"host({self.raw(path)})")
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

    def _endpoint(self, node: k.Fact) -> Text:
        match (path := node.path), self.setting.kind:
            case ("tool",), "tool":
                return Text(
                    "parts", "tool" if isinstance(node.type, typesystem.RefType) else None
                )  # its qualified name
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
                if node.type is Scalar.STRING:
                    return Text(self.put(piece.code))
                return self._sure(f"known({piece.code}, {self.word(node.type)}, {self.word(node.path[-1])})")
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

    def _reference(self, code: str, entity: str, type: typesystem.Type) -> Text:
        if not isinstance(type, typesystem.RefType) or entity not in type.entities:
            raise NotQuick("another entity than is declared")
        return Text(code, entity)

    def _given(self, expression: k.Expr, node: k.Fact) -> Text:
        """What `with` says, in a setting where nothing is bound yet."""
        if getattr(expression, "type", None) != node.type and not isinstance(node.type, typesystem.RefType):
            raise NotQuick("bound to another type")
        before, seen = self.setting, self._seen
        self.setting, self._seen = replace(before, bound={}), {}
        found = self.value(expression)
        self.setting, self._seen = before, seen
        if isinstance(node.type, typesystem.RefType) and found.of not in node.type.entities:
            raise NotQuick("another entity than is declared")
        return found

    def _checked(self, raw: str, type: typesystem.Type, path: Path) -> str:
        """The raw fact, once it is sure to be a value of its type; what is odd but usable is made one."""
        match type:
            case Scalar.BOOL:
                self.unless(f"{raw} is True or {raw} is False")
                return raw
            case Scalar.INT | Scalar.NUMBER:
                return self._odd(raw, f"type({raw}) is int and {MIN_INT} <= {raw} <= {MAX_INT}", type, path)
            case Scalar.STRING:
                empty = f"{raw} and " if is_id_fact(path[-1]) else ""
                plain = f"type({raw}) is str and {empty}{raw}.isascii() and len({raw}) <= {MAX_STRING_LENGTH}"
                return self._odd(raw, plain, type, path)
            case typesystem.EnumType():
                self.unless(f"type({raw}) is str and {raw} in {self.word(type.values)}")
                return raw
            case Scalar.DURATION:
                return self._sure(f"duration({raw})").code
            case typesystem.SetType(element=Scalar.STRING) | typesystem.ListType(element=Scalar.STRING):
                return self._strings(raw, path)
            case typesystem.SetType(element=typesystem.RefType()) | typesystem.ListType(element=typesystem.RefType()):
                return self._sure(f"things({raw}, {self.word(type)}, {self.word(path[-1])})").code
            case typesystem.RecordType():
                self.unless(f"record({raw})")
                return raw
            case typesystem.RefType():
                raise NotQuick("a reference in the request")
            case _:
                return self._sure(f"known({raw}, {self.word(type)}, {self.word(path[-1])})").code

    def _odd(self, raw: str, plain: str, type: typesystem.Type, path: Path) -> str:
        with self.block(f"if not ({plain}):"):
            self.line(f"{raw} = known({raw}, {self.word(type)}, {self.word(path[-1])})")
            self.unless(f"{raw} is not None")
        return raw

    def _strings(self, raw: str, path: Path) -> str:
        if is_id_fact(path[-1]):
            raise NotQuick("a list of ids")
        self.unless(f"plain_strings({raw})")
        return raw
