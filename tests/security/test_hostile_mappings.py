"""Objects of classes that callers bring: one that raises, lies, never ends or holds itself is read once, or is no
question."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from functools import cache
from types import MappingProxyType
from typing import Any

import pytest

from policyengine.engine import Engine
from policyengine.explain.explanation import Explanation
from policyengine.integrations.enforcement_point import check_facts, decide_and_meet, evaluate
from policyengine.runtime.decision import Decision, Outcome
from policyengine.runtime.request import RequestError
from tests.depth import examples, scaled

POLICY = """
facts { body.amount: number?   context.zone: string? }
issuer acme { url "https://id.example"   scopes none }
agent "bot" { issued by acme   acts alone   may POST /pay }
anyone { may GET /open }
guard "small" on POST /pay { deny when body.amount > 100 message "too much" }
"""
OPEN = {"request": {"method": "GET", "path": "/open"}}
PAY = {
    "request": {"method": "POST", "path": "/pay"},
    "agent": {"id": "bot", "issuer": "acme"},
    "body": {"amount": 1},
}
MEMBERS = (
    "__getitem__",
    "__iter__",
    "__len__",
    "__contains__",
    "get",
    "items",
    "keys",
    "values",
    "__class__",
    "__eq__",
)


class Boom(Exception):
    """What no caller of an engine expects."""


def boom(*_: Any) -> Any:
    raise Boom("\x1b[2J")


def raising(base: type, member: str, error: Callable[..., Any] = boom) -> type:
    """A class derived from the base, of which one member raises."""
    return type("Raising", (base,), {member: property(error) if member == "__class__" else error, "__hash__": None})


class Wrapped(Mapping[str, object]):
    """A mapping of another class."""

    def __init__(self, members: Mapping[str, object] = MappingProxyType({"zone": "eu"})) -> None:
        self.members = dict(members)

    def __getitem__(self, name: str) -> object:
        return self.members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)


class Endless(Wrapped):
    """Its members never end."""

    def __iter__(self) -> Iterator[str]:
        yield from self.members
        number = 0
        while True:
            number += 1
            yield f"m{number}"

    def __getitem__(self, name: str) -> object:
        return self.members.get(name, 1)


class Numbered(Wrapped):
    """Its members have no names."""

    def __iter__(self) -> Iterator[Any]:
        yield from (*self.members, 1, None, b"x")

    def __getitem__(self, name: Any) -> object:
        return self.members.get(name)


class Holding(Wrapped):
    """It holds itself."""

    def __getitem__(self, name: str) -> object:
        return self


class Lying(Wrapped):
    """It is longer than it says, and has members twice."""

    def __len__(self) -> int:
        return 2**70

    def __iter__(self) -> Iterator[str]:
        yield from (*self.members, *self.members)


def circle() -> dict[str, object]:
    found: dict[str, object] = dict(OPEN)
    found["context"] = found
    return found


def deep() -> dict[str, object]:
    inner: Any = 1
    for _ in range(100_000):
        inner = [inner]
    return {**OPEN, "context": {"zone": inner}}


WHOLE: dict[str, Callable[[], Any]] = {
    **{f"mapping whose {one} raises": lambda one=one: raising(Wrapped, one)(PAY) for one in MEMBERS},
    **{f"dict whose {one} raises": lambda one=one: raising(dict, one)(PAY) for one in MEMBERS},
    "endless": lambda: Endless(PAY),
    "numbered": lambda: Numbered(PAY),
    "holding itself": lambda: Holding(PAY),
    "lying": lambda: Lying(PAY),
    "a circle": circle,
    "deep": deep,
    "a str whose startswith raises": lambda: raising(str, "startswith")(json.dumps(PAY)),
    "a str whose __class__ raises": lambda: raising(str, "__class__")(json.dumps(PAY)),
    "bytes whose decode raises": lambda: raising(bytes, "decode")(json.dumps(PAY).encode()),
    "bytes whose __bytes__ raises": lambda: raising(bytes, "__bytes__")(json.dumps(PAY).encode()),
    "an object whose __class__ raises": lambda: raising(object, "__class__")(),
    "nothing": lambda: None,
    "a list": lambda: [PAY],
    "a bytearray": lambda: bytearray(b"{}"),
}
INSIDE: dict[str, Callable[[], Any]] = {
    **{
        f"{base.__name__} whose {member} raises": lambda base=base, member=member: raising(base, member)()
        for base in (Wrapped, dict, list, tuple, set, frozenset, str, int, float, bytes)
        for member in (*MEMBERS, "__str__", "__repr__")
    },
    "endless": lambda: Endless({"zone": "eu"}),
    "numbered": lambda: Numbered({"zone": "eu"}),
    "holding itself": lambda: Holding({"zone": "eu"}),
    "lying": lambda: Lying({"zone": "eu"}),
}
PLACES = ("request", "agent", "body", "context", "credential", "options", "entities", "approvals", "pending", "chain")


@cache
def runner() -> asyncio.Runner:
    return asyncio.Runner()


@pytest.fixture(scope="module", autouse=True)
def closed_runner() -> Iterator[None]:
    yield
    runner().close()
    runner.cache_clear()


def run(asked: Coroutine[Any, Any, Any]) -> Any:
    return runner().run(asked)


def ways(engine: Engine) -> dict[str, Callable[[Any], Any]]:
    return {
        "decide": engine.decide,
        "evaluate": engine.evaluate,
        "explain": engine.explain,
        "decide_many": lambda question: engine.decide_many([question])[0],
        "decide_async": lambda question: run(engine.decide_async(question)),
        "evaluate_async": lambda question: run(engine.evaluate_async(question)),
        "explain_async": lambda question: run(engine.explain_async(question)),
    }


WAYS = tuple(ways(Engine.from_text(POLICY)))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.from_text(POLICY)


def ends_well(ask: Callable[[Any], Any], question: Any) -> None:
    try:
        found = ask(question)
    except RequestError:
        return
    assert isinstance(found, Decision | Explanation | RequestError)


@pytest.mark.parametrize("way", WAYS)
def test_any_question_object_gets_an_answer_or_a_request_error(engine, way):
    for name, made in WHOLE.items():
        try:
            ends_well(ways(engine)[way], made())
        except BaseException as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error


@scaled
@pytest.mark.parametrize("way", WAYS)
def test_any_object_inside_a_question_gets_an_answer_or_a_request_error(engine, way):
    """All ways read a question with the same code: two are tried with an object at every place."""
    for place in PLACES if way in ("decide", "explain") else PLACES[: examples(2, 10)]:
        for name, made in INSIDE.items():
            try:
                ends_well(ways(engine)[way], {**PAY, place: made()})
            except BaseException as error:
                raise AssertionError(f"{name} at {place}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("made", [lambda: raising(Wrapped, "__iter__")(PAY), lambda: raising(dict, "items")(PAY)])
def test_a_mapping_that_raises_is_a_request_error(engine, way, made):
    if way == "decide_many":
        [found] = engine.decide_many([made()])
        assert isinstance(found, RequestError)
        return
    with pytest.raises(RequestError, match=r"the data cannot be read: Boom\Z"):
        ways(engine)[way](made())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_are_not_caught(engine, way, error):
    def end(*_: Any) -> Any:
        raise error

    for question in (raising(Wrapped, "__iter__", end)(PAY), {**PAY, "body": raising(Wrapped, "__iter__", end)()}):
        with pytest.raises(error):
            ways(engine)[way](question)


class Changing(Wrapped):
    """Says something else whenever it is read, and counts how often it was."""

    def __init__(self, *tellings: Mapping[str, object]) -> None:
        self.tellings, self.read = tellings, 0

    @property
    def members(self) -> Mapping[str, object]:
        return self.tellings[min(self.read, len(self.tellings)) - 1]

    def __iter__(self) -> Iterator[str]:
        self.read += 1
        return iter(self.members)


@pytest.mark.parametrize("way", WAYS)
def test_a_changing_mapping_is_read_once(engine, way):
    small, large = {**PAY, "body": {"amount": 1}}, {**PAY, "body": {"amount": 900}}
    for first, then in ((small, large), (large, small)):
        found, expected = ways(engine)[way](Changing(first, then)), ways(engine)[way](first)
        found, expected = (getattr(one, "decision", one) for one in (found, expected))
        assert (found.outcome, found.reasons) == (expected.outcome, expected.reasons)
    changing = Changing(small, large)
    ways(engine)[way](changing)
    assert changing.read == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_mapping_of_another_class_is_decided_as_a_dict(engine, way):
    for other in (Wrapped, MappingProxyType, type("Derived", (dict,), {})):
        found = ways(engine)[way](other(PAY))
        assert getattr(found, "decision", found).outcome is Outcome.ALLOW


def test_unreadable_caller_facts_of_an_integration_are_denied(engine):
    for made in (*WHOLE.values(), *INSIDE.values()):
        try:
            facts = check_facts(made())
        except Exception:
            continue  # `identified` logs it, and nobody is let through
        if facts is not None:
            question = {**facts, "request": {"method": "POST", "path": "/nowhere"}}
            assert run(decide_and_meet(engine, question)).outcome is Outcome.DENY
            assert run(evaluate(engine, question)).outcome is Outcome.DENY


@pytest.mark.parametrize("name", INSIDE)
def test_an_unreadable_output_raises_at_most_a_request_error(engine, name):
    id = engine.decide(OPEN).id
    for output in (INSIDE[name](), {"zone": INSIDE[name]()}):
        with suppress(RequestError):
            engine.report(id, output=output)
