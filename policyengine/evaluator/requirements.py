"""The requirements of blocks: who may act, for whom, and with which proofs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from policyengine import kernel as k
from policyengine.evaluator.conditions import Condition
from policyengine.evaluator.nodes import Node
from policyengine.evaluator.state import MAYBE, NO, YES, State
from policyengine.runtime.values import Unknown


class IssuedByTest(Condition):
    """`issued by a, b`."""

    __slots__ = ("issuers",)

    def __init__(self, issuers: tuple[str, ...]) -> None:
        self.issuers = issuers

    def test(self, st: State) -> int:
        issuer = st.issuer
        if type(issuer) is Unknown:
            st.doubts.append(issuer)
            return MAYBE
        return YES if issuer in self.issuers else NO


class ActsAloneTest(Condition):
    """`acts alone`: there is no user, and the subject of the credential is the agent itself."""

    __slots__ = ("subject",)

    def __init__(self, subject: Node) -> None:
        self.subject = subject

    def test(self, st: State) -> int:
        user = st.user
        if type(user) is not Unknown:
            return NO
        if not user.absent:
            st.doubts.append(user)
            return MAYBE
        if st.hop is not None:
            return YES
        subject, name = self.subject.get(st), st.name
        if type(subject) is Unknown and subject.absent:
            return YES
        if type(subject) is Unknown or type(name) is Unknown:
            leave_unknown(st, subject, name)
            return MAYBE
        return YES if subject == name else NO


class ActsForTest(Condition):
    """`acts for users where …`: the user is known and satisfies the condition, and the subject of the credential is the
    user or the agent.
    """

    __slots__ = ("condition", "subject")

    def __init__(self, subject: Node, condition: Condition | None) -> None:
        self.subject = subject
        self.condition = condition

    def test(self, st: State) -> int:
        user, mark = st.user, len(st.doubts)
        found = YES
        if type(user) is Unknown:
            st.doubts.append(user)
            found = MAYBE
        elif self.condition is not None:
            found = self.condition.test(st)
            if found == NO:
                return NO
        if st.hop is not None:
            return found
        subject, name = self.subject.get(st), st.name
        if type(subject) is Unknown and subject.absent:
            return found
        if type(subject) is Unknown or type(name) is Unknown or type(user) is Unknown:
            leave_unknown(st, subject, name, user)
            return MAYBE
        if subject != name and subject != user:
            del st.doubts[mark:]
            return NO
        return found


def leave_unknown(st: State, *values: Any) -> None:
    for value in values:
        if type(value) is Unknown:
            st.doubts.append(value)


class ValidityTest(Condition):
    """The test of `valid from … until …`: whether the decision is within the period."""

    __slots__ = ("end", "start")

    def __init__(self, start: datetime | None, end: datetime | None) -> None:
        self.start = start
        self.end = end

    def test(self, st: State) -> int:
        begun = self.start is None or self.start <= st.now
        return YES if begun and (self.end is None or st.now < self.end) else NO


class Requirement:
    """A requirement of a block. If it requires a proof, `need` is its text and `kind` the kind of proof; `source` is
    the requirement in the kernel.
    """

    __slots__ = ("condition", "kind", "need", "source")

    def __init__(self, condition: Condition, kind: str | None, need: str, source: k.Requirement) -> None:
        self.condition = condition
        self.kind = kind
        self.need = need
        self.source = source
