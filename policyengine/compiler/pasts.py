"""History conditions → lines of Python: a loop over the events that may count, latest first, from memory.

An event of which it is not sure whether it counts leaves the answer unknown, unless another one settles it. Where the
store is elsewhere there is no quick way: fetching takes longer than deciding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.compiler.facts import FactLines, Recall
from policyengine.compiler.lines import NotQuick, Text
from policyengine.compiler.reads import named
from policyengine.runtime.history import HistoryRecord, bounded_value
from policyengine.runtime.value_keys import value_key
from policyengine.runtime.values import Unknown, Value
from policyengine.spec.history import conjuncts, join_key, reads_past
from policyengine.spec.kleene import describe
from policyengine.spec.limit_keys import host_network, is_address
from policyengine.spec.path_texts import is_path_text
from policyengine.spec.rate_units import to_microseconds
from policyengine.spec.required_history import awaits_outcome
from policyengine.typesystem import EntityRef, Scalar

MOST_KEYS = 10_000  # of which the text is remembered, for each condition
SHORT = 40  # characters that are never too many to be kept


class Keys(dict[tuple[Any, ...], Any]):
    """Keys as one text, by their parts; None where that is not sure. The same callers come again and again."""

    def __missing__(self, parts: tuple[Any, ...]) -> str | None:
        found = self.text(parts)
        if found is not None:
            if len(self) >= MOST_KEYS:
                self.clear()
            self[parts] = found
        return found

    def text(self, parts: tuple[Any, ...]) -> str | None:
        found = join_key(list(parts))
        return found if isinstance(found, str) else None


class CallerKeys(Keys):
    """Of issuer, agent and user, of which some may be absent."""

    def text(self, parts: tuple[Any, ...]) -> str | None:
        _, agent, user = parts
        if (agent is None and user is None) or not all(one is None or named(one) for one in parts):
            return None
        return super().text(tuple("" if one is None else one for one in parts))


def remembered(value: Value, fact: str) -> Value:
    """What is kept of a fact."""
    short = type(value) is str and len(value) <= SHORT
    short = short or (type(value) is EntityRef and len(value.type) + len(value.id) <= SHORT)
    return value if short or type(value) is bool else bounded_value(value, fact)


NAMESPACE: dict[str, object] = {
    "Record": HistoryRecord,
    "key_of": value_key,
    "Unknown": Unknown,
    "remembered": remembered,
}


@dataclass(slots=True)
class PastLines(FactLines):
    """Writes what conditions ask of the past; `event` is what `PastFact` speaks of meanwhile, `one` its name."""

    event: k.EventPattern | None = field(default=None, kw_only=True)
    one: str = field(default="", kw_only=True)

    @abstractmethod
    def test(self, node: k.Expr) -> str: ...
    @abstractmethod
    def read_before(self, condition: k.Expr) -> None: ...
    @abstractmethod
    def reference(self, text: Text) -> str: ...
    @abstractmethod
    def _maybe(self, node: k.Expr) -> tuple[str, Callable[[], Text] | None]: ...
    @abstractmethod
    def _only(self, type: typesystem.Type) -> str | None: ...

    # ── Conditions ────────────────────────────────────────────────────────────────────────────

    def happened(self, node: k.HistoryCondition) -> str:
        found, unsure = self.put("False"), self.put("False")
        with self._counting(node, unsure) as (test, gap), self._if(test):
            self.line(f"{found} = True")
            self.line("break")
        self.unless(f"{found} or not ({unsure} or {gap})")
        return found

    def aggregate(self, node: k.Aggregate) -> Text:
        if node.function == "count" and node.event.where is None and node.since is None:
            return Text(self._counted(node))
        total = self.put("set()" if node.function == "distinct" else "0")
        with self._counting(node, None) as (test, gap), self._if(test):
            self._added(node, total)
        self.unless(f"not ({gap})")
        return Text(f"len({total})" if node.function == "distinct" else total)

    def _added(self, node: k.Aggregate, total: str) -> None:
        if node.field is None:
            self.line(f"{total} += 1")
            return
        code = self.reference(self.past(node.field))
        if node.function == "distinct":
            self.line(f"{total}.add({f'key_of({code})' if node.field.type is Scalar.NUMBER else code})")
            return
        self.line(f'{total} = calculated("+", {total}, {code})')
        self.unless(f"{total} is not None")

    def _counted(self, node: k.Aggregate) -> str:
        count = self.constant(self._recall.counting(node.event.watch, to_microseconds(node.within)))
        number, complete, start = self.name(), self.name(), self.name()
        self.line(f"{number}, {complete}, {start} = {count}({self._key(node.event)}, moment)")
        self.unless(f"{complete} <= {start}")
        return number

    # ── Events ────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _counting(self, node: k.HistoryCondition | k.Aggregate, unsure: str | None) -> Iterator[tuple[str, str]]:
        """In a loop over the events that may count: whether one does, and whether some may be missing among them. One
        that may count makes `unsure` true; without that name, nothing is sure any more."""
        cut = None if node.since is None else self._cut(node, node.since)
        events, complete, start = self._window(node, node.event)
        with self._each(node.event, events, unsure):
            if cut is not None:
                serial, lost = cut
                self.line(f"if {self.one}[1] <= {serial}: break")
                self.unless(f"{self.one}[0] > {lost}")
            test = "True" if node.event.where is None else self.test(node.event.where)
            yield test, f"{complete} > {start}"

    def _cut(self, node: k.HistoryCondition | k.Aggregate, since: k.EventPattern) -> tuple[str, str]:
        """The serial of the last `since`, and after which time none of them is missing."""
        serial = self.put("-1")
        events, complete, _ = self._window(node, since)
        with self._each(since, events, None):
            test = "True" if since.where is None else self.test(since.where)
            with self._if(test):
                self.line(f"{serial} = {self.one}[1]")
                self.line("break")
        return serial, complete

    def _window(self, node: k.HistoryCondition | k.Aggregate, event: k.EventPattern) -> tuple[str, str, str]:
        key = self._key(event)
        place, wanted = self._wanted(event)
        for fact in facts_beside(event.where):
            self.value(fact)
        if event.where is not None:
            self.read_before(event.where)
        look = self.constant(self._recall.looking(event.watch, to_microseconds(node.within), place))
        events, complete, start = self.name(), self.name(), self.name()
        self.line(f"{events}, {complete}, {start} = {look}({key}, moment{wanted})")
        return events, complete, start

    def _if(self, test: str) -> AbstractContextManager[None]:
        return nullcontext() if test == "True" else self.block(f"if {test}:")

    @contextmanager
    def _each(self, event: k.EventPattern, events: str, unsure: str | None) -> Iterator[None]:
        one = self.name()
        before = self.event, self.one, self.unsure
        with self.block(f"for {one} in {events}:"):
            self.event, self.one = event, one
            self.unsure = self.unsure if unsure is None else f"{unsure} = True; continue"
            yield
            self.event, self.one, self.unsure = before

    def _wanted(self, event: k.EventPattern) -> tuple[int | None, str]:
        """The place of a fact of the event that has to be a text or an entity, and as an argument what it has to be."""
        for part in conjuncts(event.where):
            match part:
                case k.Relation("==", k.PastFact(fact), other) | k.Relation("==", other, k.PastFact(fact)) if (
                    fact in event.facts
                ):
                    known = other.type is Scalar.STRING or isinstance(
                        other.type, typesystem.RefType | typesystem.EnumType
                    )
                    if known and not reads_past(other):
                        return event.facts.index(fact), f", {self.reference(self.value(other))}"
        return None, ""

    @property
    def _recall(self) -> Recall:
        if self.setting.recall is None:
            raise NotQuick("a history that is not in this process")
        if self.event is not None:
            raise NotQuick("a history inside of another")
        return self.setting.recall

    # ── Whose history ─────────────────────────────────────────────────────────────────────────

    def _key(self, event: k.EventPattern) -> str:
        if event.keys is None:
            self.unless("(issuer is None or type(issuer) is str) and (agent is None or type(agent) is str)")
            code = f"{self.constant(CallerKeys())}[issuer, agent, user]"
        else:
            for key in event.keys:
                only_plain(key.type)
            codes = "".join(f"{self.reference(self.key_value(key))}, " for key in event.keys)
            code = f"{self.constant(Keys())}[({codes})]"
        name = self.put(code)
        self.unless(f"{name} is not None")
        return name

    def key_value(self, key: k.Expr) -> Text:
        """As `count_key` has it."""
        text = self.value(key)
        if text.of is not None:
            return text
        if is_path_text(key):
            return Text(self.put(f"fold({text.code})"))
        return Text(self.put(f"{self.constant(host_network)}({text.code})")) if is_address(key) else text

    # ── Facts of an earlier request ───────────────────────────────────────────────────────────

    def past(self, node: k.PastFact) -> Text:
        only_plain(node.type)
        match node.fact:
            case k.Fact(("past", "status")):
                code = self.put(f"{self.one}[4]")
                self.unless(f"{code} is not None")
                return Text(code)
            case k.Fact(("past", "output", *rest)):
                code = self._told(tuple(rest))
                self.unless(f"{code} is not None and {code}.__class__ is not Unknown")
                return Text(self._checked(code, node.type, node.fact.path))
            case _:
                code = self._recorded(node)
                self.unless(f"{code}.__class__ is not Unknown")
                return Text(code)

    def past_is_there(self, node: k.PastFact) -> str:
        """Whether it was known then, or surely absent."""
        match node.fact:
            case k.Fact(("past", "status")):
                self.past(node)
                return "True"
            case k.Fact(("past", "output", *rest)):
                code = self._told(tuple(rest))
                self.unless(f"{code} is not None")
                name = self._is_known(code)
                with self.block(f"if {name}:"):
                    self.past(node)
                return name
            case _:
                return self._is_known(self._recorded(node))

    def _is_known(self, code: str) -> str:
        name = self.put(f"{code}.__class__ is not Unknown")
        with self.block(f"if not {name}:"):
            self.unless(f"{code}.absent")
        return name

    def _recorded(self, node: k.PastFact) -> str:
        return self._once(
            ("past", node), lambda: Text(self.put(f"{self.one}[3][{self._event.facts.index(node.fact)}]"))
        ).code

    def _told(self, path: tuple[str, ...]) -> str:
        place = self._event.outputs.index(path)
        return self.put(f"{self.one}[5][{place}] if len({self.one}[5]) > {place} else None")

    @property
    def _event(self) -> k.EventPattern:
        if self.event is None:
            raise NotQuick("no earlier request is matched here")
        return self.event

    # ── What is remembered ────────────────────────────────────────────────────────────────────

    def records(self, watches: Sequence[k.EventRetention]) -> None:
        """The function that tells what is remembered of a request that is allowed."""
        codes = []
        for watch in watches:
            event = watch.event
            with self.about(watch.span):
                key = self._key(event)
                facts = "".join(f"{self._remembered(fact)}, " for fact in event.facts)
                how = (event.outputs, to_microseconds(watch.within), event.latest, awaits_outcome(event))
                rest = ", ".join(map(self.constant, how))
                codes.append(f"Record({self.constant(event.watch)}, {key}, ({facts}), {rest}), ")
        self.line(f"return ({''.join(codes)})")

    def _remembered(self, fact: k.Expr) -> str:
        type = only_plain(fact.type)
        word = self.word(describe(fact))
        try:
            raw, checked = self._maybe(fact)
        except NotQuick:  # it is not absent where it is known
            return f"remembered({self.reference(self.value(fact))}, {word})"
        name = self.name()
        with self.block(f"if {raw} is {'ABSENT' if checked is None else 'None'}:"):
            self.line(f"{name} = {self.constant(Unknown.missing(describe(fact)))}")
        with self.block("else:"):
            if checked is None:
                self.unless(f"{raw} is not None")
            found = checked() if checked is not None else Text(raw, self._only(type))
            self.line(f"{name} = remembered({self.reference(found)}, {word})")
        return name


def only_plain(type: typesystem.Type | None) -> typesystem.Type:
    if not isinstance(type, Scalar | typesystem.EnumType | typesystem.RefType):
        raise NotQuick("a fact that is no plain value")
    return type


def facts_beside(where: k.Expr | None) -> Iterator[k.Expr]:
    """What a condition on events surely reads of this request: it is read once, before the first of them."""
    pending = [] if where is None else [where]
    while pending:
        node = pending.pop()
        match node:
            case k.Fact() | k.Attribute():
                if not any(isinstance(one, k.Variable) for one in k.walk(node)):
                    yield node
            case k.IsPresent() | k.Default() | k.PastFact() | k.Quantifier():
                continue
            case _:
                pending.extend(k.children(node))
