"""Blocks and guards → functions: one for each door and for the guards of an endpoint, sharing code by their shape."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from types import CodeType, FunctionType
from typing import Any, TypeAlias

from policyengine import kernel as k
from policyengine.compiler.emit import NAMESPACE, PARAMETERS, Writer
from policyengine.compiler.facts import Setting
from policyengine.compiler.lines import UNSURE, NotQuick
from policyengine.compiler.requirements import Trust, condition_of, is_proof
from policyengine.runtime.patterns import PatternError
from policyengine.spec.reason_texts import PROOFS
from policyengine.spec.tasks import TaskConstraint
from policyengine.spec.trace import Block
from policyengine.typesystem import Scalar

Rule: TypeAlias = Callable[..., Any]
ACTS_FOR = "(subject is None or subject == agent or subject == user)"
Proof: TypeAlias = tuple[str, str, tuple[str, str], bool | timedelta]


@dataclass(frozen=True, slots=True)
class Door:
    """A block and those of its `may` that cover an endpoint, each with the openings that do."""

    block: Block
    grants: tuple[tuple[k.Grant, tuple[k.GrantTarget, ...]], ...]


# ── Code by shape ─────────────────────────────────────────────────────────────────────────────


class Shapes:
    """Every function body that there is, compiled once; what is different between rules is in their constants."""

    def __init__(self) -> None:
        self.codes: dict[tuple[str, int], CodeType] = {}

    def function(self, write: Callable[[Writer], None], setting: Setting) -> Rule:
        """The function that is written; one that is never sure where there is no quick way."""
        try:
            writer = Writer(setting=setting)
            write(writer)
            code = self._code(writer)
        except (NotQuick, PatternError, RecursionError, MemoryError):
            return not_sure
        return FunctionType(code, NAMESPACE, "rule", (*writer.constants, tuple(writer.spans)))

    def _code(self, writer: Writer) -> CodeType:
        text = source(writer)
        found = self.codes.get((text, len(writer.constants)))
        if found is None:
            name = f"<policyengine shape {len(self.codes)}>"
            space: dict[str, Any] = {}
            exec(compiled(text, name), space)  # the text is made of our own words only: see emit.py
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
            found = self.codes[text, len(writer.constants)] = space["rule"].__code__
        return found


def compiled(text: str, name: str) -> CodeType:
    try:
        return compile(text, name, "exec")
    except SyntaxError as error:
        if "nested" in str(error):
            raise NotQuick("more nested loops than Python has") from None
        raise


def source(writer: Writer) -> str:
    """The text of the function. Its last parameter holds, for each line, the place in the policy that it is for."""
    constants = "".join(f", C{number}=None" for number in range(len(writer.constants)))
    return "\n".join((f"def rule({PARAMETERS}{constants}, places=()):", *writer.lines, ""))


def not_sure(*_: object) -> None:
    """Where there is no quick way."""


# ── Doors ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class DoorWriter:
    """Writes the two functions of some doors. `carried`: no scope is asked for."""

    writer: Writer
    trust: Trust
    carried: bool

    # ── Is one open? ──────────────────────────────────────────────────────────────────────────

    def opens(self, doors: Iterable[Door]) -> None:
        """True where one is surely open: whatever refutes it comes first, and why it is shut is not asked."""
        for door in doors:
            with self.writer.about(door.block.span), ExitStack() as blocks:
                self.open_if(door, blocks)
        self.writer.line("return False")

    def open_if(self, door: Door, blocks: ExitStack) -> None:
        """The conditions of the only `may` come before what the block requires: they refute more, for less."""
        block = door.block
        if len(door.grants) == 1:
            ((grant, openings),) = door.grants
            blocks.enter_context(self.granted(grant))
            self.stands(block, blocks)
            self.open_by(block, openings)
            return
        self.stands(block, blocks)
        for grant, openings in door.grants:
            with self.granted(grant):
                self.open_by(block, openings)

    def stands(self, block: Block, blocks: ExitStack) -> None:
        for one in () if isinstance(block, k.AnyoneBlock) else block.requirements:
            with self.writer.about(one.span):
                blocks.enter_context(self.required(one))
        if isinstance(block, k.AgentBlock | k.UserBlock) and isinstance(block.who, k.PrincipalCondition):
            self.writer.unless("agent is not None" if isinstance(block, k.AgentBlock) else "user is not None")
            blocks.enter_context(self.writer.where(block.who.condition))

    @contextmanager
    def granted(self, grant: k.Grant) -> Iterator[None]:
        with self.writer.about(grant.span), nullcontext() if grant.when is None else self.writer.where(grant.when):
            yield

    def open_by(self, block: Block, openings: Sequence[k.GrantTarget]) -> None:
        carries = self.carries(block, openings)
        self.writer.line("return True" if carries == "True" else f"if {carries}: return True")

    def required(self, requirement: k.Requirement) -> AbstractContextManager[None]:
        match requirement:
            case k.IssuedBy(names):
                return self.writer.block(f"if {self.issued(names)}:")
            case k.ActsAlone() | k.ValidityPeriod():
                return self.writer.block(f"if {self.holds(requirement)}:")
            case k.ActsFor(condition):
                acts = self.writer.block(f"if user is not None and {ACTS_FOR}:")
                return acts if condition is None else both(acts, lambda: self.writer.where(condition))
            case _:
                return self.writer.where(condition_of(requirement, self.trust))

    # ── What would it have taken? ─────────────────────────────────────────────────────────────

    def tells(self, doors: Iterable[Door]) -> None:
        """False where no block stands, else the scopes any of which would have opened one of the doors, mostly none.

        It is sure only if every fact is known that any of these blocks asks for: an unknown one could be why not.
        """
        self.writer.line("closed = False")
        for door in doors:
            with self.writer.about(door.block.span):
                self.tell(door)
        self.writer.line("return closed")

    def tell(self, door: Door) -> None:
        if isinstance(door.block, k.AgentBlock | k.UserBlock) and isinstance(door.block.who, k.PrincipalCondition):
            self.writer.unless("agent is not None" if isinstance(door.block, k.AgentBlock) else "user is not None")
            with self.writer.block(f"if {self.writer.test(door.block.who.condition)}:"):
                self.tell_standing(door)
        else:
            self.tell_standing(door)

    def tell_standing(self, door: Door) -> None:
        requirements = () if isinstance(door.block, k.AnyoneBlock) else door.block.requirements
        holds = self.all_of([one for one in requirements if not is_proof(one)])
        proved = self.all_of([one for one in requirements if is_proof(one)])
        tests = [self.when(grant) for grant, _ in door.grants]
        with self.writer.block(f"if {holds}:") if holds != "True" else nullcontext():
            with self.writer.block(f"if {proved}:") if proved != "True" else nullcontext():
                self.tell_grants(door, tests)
            if proved != "True":
                with self.writer.block("else:"):
                    self.tell_unproved(door, tests)

    def all_of(self, requirements: Sequence[k.Requirement]) -> str:
        codes = []
        for one in requirements:
            with self.writer.about(one.span):
                codes.append(self.holds(one))
        return " and ".join(codes) or "True"

    def when(self, grant: k.Grant) -> str:
        with self.writer.about(grant.span):
            return "True" if grant.when is None else self.writer.test(grant.when)

    def tell_unproved(self, door: Door, tests: Sequence[str]) -> None:
        """What a better credential would have opened is told with care."""
        for (_, openings), test in zip(door.grants, tests, strict=True):
            self.writer.line(f"if {test} and ({self.carries(door.block, openings)}): {UNSURE}")

    def tell_grants(self, door: Door, tests: Sequence[str]) -> None:
        self.writer.line("if closed is False: closed = ()")
        for (grant, openings), test in zip(door.grants, tests, strict=True):
            scopes = tuple(dict.fromkeys(scope for opening in openings for scope in opening.carriers))
            carries = self.carries(door.block, openings)
            with self.writer.about(grant.span), self.writer.block(f"if {test}:"):
                if carries == "True" or not scopes:
                    self.writer.line(UNSURE)  # it is open after all, or no scope is to be told
                else:
                    self.writer.line(f"if {carries}: {UNSURE}")
                    self.writer.line(f"closed += {self.writer.constant(scopes)}")

    # ── Parts of both ─────────────────────────────────────────────────────────────────────────

    def carries(self, block: Block, openings: Sequence[k.GrantTarget]) -> str:
        """Whether the credential carries a scope for one of the openings, or its issuer asks for none."""
        if self.carried:
            return "True"
        known = self._issuers(block)
        if known and known <= self.trust.scopes_none:
            return "True"
        scopes = dict.fromkeys(scope for opening in openings for scope in opening.carriers)
        named = " or ".join(f"{self.writer.constant(scope)} in scopes" for scope in scopes) or "False"
        if known:
            free = known & self.trust.scopes_none
            return f"{named} or issuer in {self.writer.constant(free)}" if free else named
        free = self.trust.scopes_none
        named = f"({named} or issuer in {self.writer.constant(free)})" if free else f"({named})"
        return f"{named} and issuer in {self.writer.constant(self.trust.issuers)}"

    def _issuers(self, block: Block) -> frozenset[str]:
        """The issuers of which one is sure to have issued the credential; empty where the block does not say."""
        requirements = () if isinstance(block, k.AnyoneBlock) else block.requirements
        names = [frozenset(one.issuers) for one in requirements if isinstance(one, k.IssuedBy)]
        return names[0] if names and names[0] <= self.trust.issuers else frozenset()

    def issued(self, names: Sequence[str]) -> str:
        if len(names) == 1:
            return f"issuer == {self.writer.constant(names[0])}"
        return f"issuer in {self.writer.constant(frozenset(names))}"

    def holds(self, requirement: k.Requirement) -> str:
        writer = self.writer
        match requirement:
            case k.IssuedBy(names):
                found = writer.put(self.issued(names))
                writer.line(f"if not {found} and not named(issuer): {UNSURE}")  # an equal one is a name
                return found
            case k.ActsAlone():
                return writer.put("user is None and (subject is None or subject == agent)")
            case k.ActsFor(condition):
                writer.unless("user is not None and agent is not None")
                acts = "True" if condition is None else writer.test(condition)
                return writer.put(f"{acts} and {ACTS_FOR}")
            case k.ValidityPeriod(start, end):
                before = f"{writer.constant(start)} <= instant(moment)" if start is not None else "True"
                after = f"instant(moment) < {writer.constant(end)}" if end is not None else "True"
                return writer.put(f"{before} and {after}")
            case _:
                return writer.test(condition_of(requirement, self.trust))


@contextmanager
def both(outer: AbstractContextManager[None], inner: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    with outer, inner():
        yield


# ── Guards ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that guards may do: a deny (with the proof that would lift it, if one would) or an obligation."""

    guard: k.Guard
    effect: k.Deny | k.ObligationEffect
    proof: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class OutsideTask:
    """That a request lies outside of a bound of its task."""

    bound: TaskConstraint


@dataclass(frozen=True, slots=True)
class TaskWriter:
    """Writes which bounds of the task a request lies outside of, as bits among the `acts`."""

    writer: Writer
    acts: list[Act | OutsideTask]

    def outside(self, bounds: Iterable[TaskConstraint]) -> None:
        self.writer.line("acting = 0")
        for bound in bounds:
            with self.writer.block(f"if {self.writer.test(bound.outside)}:"):
                self.acts.append(OutsideTask(bound))
                self.writer.line(f"acting += {1 << len(self.acts) - 1}")
        self.writer.line("return acting")


@dataclass(frozen=True, slots=True)
class GuardWriter:
    """Writes which of the `acts` take place, as bits: act number n is bit n.

    A confirm needs its approvals, and a message may show facts: those are decided with care when they act.
    """

    writer: Writer
    acts: list[Act | OutsideTask]

    def guards(self, guards: Iterable[k.Guard]) -> None:
        self.writer.line("acting = 0")
        for guard in guards:
            for effect in guard.effects:
                with self.writer.about(effect.span):
                    self.effect(guard, effect)
        self.writer.line("return acting")

    def effect(self, guard: k.Guard, effect: k.Effect) -> None:
        condition = "True" if effect.condition is None else self.writer.test(effect.condition)
        with self.writer.block(f"if {condition}:") if condition != "True" else nullcontext():
            if isinstance(effect, k.Confirm) or any(isinstance(part, k.MessageFact) for part in effect.message or ()):
                self.writer.line(UNSURE)
            elif isinstance(effect, k.Deny) and effect.condition is not None:
                self.denied(guard, effect, effect.condition, PROOFS)
            else:
                self.act(Act(guard, effect))

    def denied(self, guard: k.Guard, deny: k.Deny, condition: k.Expr, proofs: Sequence[Proof]) -> None:
        """The first proof with which the condition would not hold is the remedy."""
        for place, (kind, words, path, better) in enumerate(proofs):
            if any(isinstance(node, k.Fact) and node.path == path for node in k.walk(condition)):
                type_ = Scalar.BOOL if better is True else Scalar.DURATION
                constant = k.Constant(better, type_, span=deny.span)
                still = self.writer.test(replaced(condition, path, constant))
                with self.writer.block(f"if not {still}:"):
                    self.act(Act(guard, deny, (kind, words)))
                with self.writer.block("else:"):
                    self.denied(guard, deny, condition, proofs[place + 1 :])
                return
        self.act(Act(guard, deny))

    def act(self, act: Act) -> None:
        self.acts.append(act)
        self.writer.line(f"acting += {1 << len(self.acts) - 1}")


def replaced(node: k.Expr, path: tuple[str, ...], better: k.Expr) -> k.Expr:
    """The expression with another one in place of a fact."""
    if isinstance(node, k.Fact) and node.path == path:
        return better
    if isinstance(node, k.PastFact):
        return node  # what was proved then is not proved now

    def inside(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(inside(one) for one in value)
        if isinstance(value, k.EventPattern):
            return replace(value, keys=inside(value.keys), where=inside(value.where))  # type: ignore[arg-type]
        return replaced(value, path, better) if isinstance(value, k.Node) else value  # type: ignore[arg-type]

    parts = {one.name: inside(getattr(node, one.name)) for one in fields(node) if one.name != "span"}
    return replace(node, **parts)  # type: ignore[arg-type]  # of the fields of its own class
