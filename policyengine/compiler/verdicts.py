"""Answers that can be given again: all of a decision but who asked, made once for each way an endpoint can end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.compiler.leaf import Leaf
from policyengine.compiler.rules import Act, OutsideTask
from policyengine.runtime.decision import Answer, Gate, Obligation, Outcome, Reason, Remedy
from policyengine.spec.reason_texts import NO_BLOCK, NO_SCOPE, NO_USER_BLOCK, NOTHING_OPENS, OPERATOR_OBLIGATIONS

# Whether a block stands, whether the door is open, the scopes that would have opened it, whether the user's is.
Doors: TypeAlias = tuple[bool, bool, tuple[str, ...], bool]

MOST_VERDICTS = 1_000  # kept at one endpoint
OPEN: Doors = (True, True, (), True)
SHUT: Doors = (True, False, (), True)


class Verdicts:
    """The answers of one policy. `allow` and `nothing_opens` are by far the commonest."""

    def __init__(self, package: str, revision: str) -> None:
        self._package, self._revision = package, revision
        self.allow, self.nothing_opens = self._made(OPEN, []), self._made(SHUT, [])

    def at(self, leaf: Leaf, doors: Doors, acting: int) -> Answer:
        """What follows when every fact that matters is known: `acting` are the acts of guards, as bits."""
        key = (doors, acting)
        found: Answer | None = leaf.verdicts.get(key)
        if found is None:
            found = self._made(doors, [act for number, act in enumerate(leaf.acts) if acting >> number & 1])
            if len(leaf.verdicts) < MOST_VERDICTS:
                leaf.verdicts[key] = found
        return found

    def _made(self, doors: Doors, acts: list[Act | OutsideTask]) -> Answer:
        stops = tuple(stops_of(doors, acts))
        reasons = tuple(reason for reason, _ in stops)
        return Answer(
            outcome := Outcome.DENY if stops else Outcome.ALLOW,
            reasons[0].gate if reasons else None,
            reasons,
            remedies=tuple(dict.fromkeys(remedy for _, given in stops for remedy in given)),
            obligations=tuple(obligations(acts, outcome)),
            package=self._package,
            revision=self._revision,
        )


def stops_of(doors: Doors, acts: Sequence[Act | OutsideTask]) -> Iterator[tuple[Reason, tuple[Remedy, ...]]]:
    stands, opened, scopes, user = doors
    if not stands:
        yield Reason(Gate.IDENTITY, NO_BLOCK), ()
        return
    if not opened:
        words = NO_SCOPE if scopes else NOTHING_OPENS
        yield Reason(Gate.DEFAULT, words), (Remedy("scope", scopes=tuple(dict.fromkeys(scopes))),) if scopes else ()
    if not user:
        yield Reason(Gate.USER, NO_USER_BLOCK), ()
    for act in acts:
        if isinstance(act, OutsideTask):
            yield Reason(Gate.TASK, act.bound.message), (Remedy("task", need=act.bound.need),)
    for act in acts:
        if isinstance(act, Act) and isinstance(act.effect, k.Deny):
            yield denied(act, act.effect)


def denied(act: Act, deny: k.Deny) -> tuple[Reason, tuple[Remedy, ...]]:
    reason = Reason(Gate.GUARD, written(deny) or f"`{deny.words}`", act.guard.name, deny.span.at)
    return reason, () if act.proof is None else (Remedy(act.proof[0], act.guard.name, need=act.proof[1]),)


def obligations(acts: Iterable[Act | OutsideTask], outcome: Outcome) -> Iterator[Obligation]:
    for act in (one for one in acts if isinstance(one, Act)):
        effect = act.effect
        if isinstance(effect, k.ObligationEffect) and (outcome is Outcome.ALLOW or effect.kind in OPERATOR_OBLIGATIONS):
            yield Obligation(effect.kind, effect.arguments, act.guard.name, effect.span.at, written(effect))


def written(effect: k.Deny | k.ObligationEffect) -> str | None:
    """The message, which shows no facts."""
    return None if effect.message is None else "".join(part for part in effect.message if isinstance(part, str))
