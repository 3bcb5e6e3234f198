"""The automaton of a declared order of calls: decides whether the calls of a run follow the order so far. The package
`kernel` does not re-export this module.

A *letter* is the set of steps that a request matches, as a bit mask: bit n stands for the nth distinct step. The letter
0 is a request that no step matches. The automaton is deterministic and minimal, and its states have the same numbers
for equal orders. It is built from the position automaton of the order, in which every state is a set of steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, TypeAlias

from policyengine.kernel.fingerprint import canonical_text
from policyengine.kernel.profiles import CallStep, StepGroup

MAX_STEPS: Final = 32
MAX_STATES: Final = 256
MAX_LETTERS: Final = 256
START: Final = 0
LEFT: Final = 2**16 - 1  # the state of a run that has left the order
NO_MACHINE: Final = 0
NO_LETTER: Final = 0
REPEATS: Final = ("optional", "repeated")

Order: TypeAlias = tuple[CallStep | StepGroup, ...]
Positions: TypeAlias = int  # a set of steps in the order, as a bit mask of their places in it


class OrderSizeError(Exception):
    """The error for an order that is too large; the text says what exceeds which bound."""


class SequenceAutomaton:
    """A deterministic automaton. It never changes.

    `rows` has for each state the next states by letter; a letter that is not there leaves the order. `steps` are the
    words of the distinct steps. `entries` and `exits` have for each state the numbers of the steps with which a run
    enters it, and of those that may follow. A run may end in the states of `ends`. `digest` is a number from 1 to
    65,535 that differs for almost all different orders.
    """

    __slots__ = ("digest", "ends", "entries", "exits", "rows", "steps")

    def __init__(
        self,
        digest: int,
        rows: tuple[dict[int, int], ...],
        ends: frozenset[int],
        steps: tuple[str, ...],
        entries: tuple[tuple[int, ...], ...],
        exits: tuple[tuple[int, ...], ...],
    ) -> None:
        self.digest = digest
        self.rows = rows
        self.ends = ends
        self.steps = steps
        self.entries = entries
        self.exits = exits

    def next(self, state: int, letter: int) -> int:
        """Return the state after a request with this letter; LEFT if it does not follow the order."""
        return self.rows[state].get(letter, LEFT) if state < len(self.rows) else LEFT

    def latest(self, state: int) -> tuple[str, ...]:
        """Return the steps that may have been the latest in this state; empty at the start, and after a run has left
        the order."""
        return self._words(self.entries, state)

    def expected(self, state: int) -> tuple[str, ...]:
        """Return the steps that may follow in this state."""
        return self._words(self.exits, state)

    def _words(self, numbers: tuple[tuple[int, ...], ...], state: int) -> tuple[str, ...]:
        return tuple(self.steps[number] for number in numbers[state]) if state < len(numbers) else ()


def distinct_steps(order: Order) -> tuple[CallStep, ...]:
    """Return the steps with different endpoints, in order of their first appearance. Their places are the bits of
    letters."""
    found: dict[frozenset[object], CallStep] = {}
    for step in leaves(order):
        found.setdefault(frozenset(step.patterns), step)
    return tuple(found.values())


def leaves(order: Iterable[CallStep | StepGroup]) -> Iterator[CallStep]:
    """Yield the steps of an order, including those of groups, as they are written."""
    for item in order:
        if isinstance(item, CallStep):
            yield item
        else:
            for alternative in item.alternatives:
                yield from leaves(alternative)


def step_words(step: CallStep) -> str:
    """Return a step as it is written, without `optional` and `repeated`."""
    words = step.span.text.split()
    while len(words) > 1 and words[-1] in REPEATS:
        words.pop()
    return " ".join(words)


def order_text(order: Order) -> str:
    """Return an order as it may be written in a policy."""
    return " -> ".join(map(_item_text, order))


def _item_text(item: CallStep | StepGroup) -> str:
    text = step_words(item) if isinstance(item, CallStep) else f"({' | '.join(map(order_text, item.alternatives))})"
    return f"{text}{' optional' if item.optional else ''}{' repeated' if item.repeated else ''}"


def order_digest(order: Order) -> int:
    raw = blake2b(canonical_text(order).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(raw) % (2**16 - 1) + 1


def build_automaton(order: Order, letters: Collection[int]) -> SequenceAutomaton:
    """Return the minimal automaton of an order; `letters` contains every letter that a request can have. Raises
    OrderSizeError."""
    distinct = distinct_steps(order)
    numbers = {frozenset[object](step.patterns): number for number, step in enumerate(distinct)}
    symbols = [numbers[frozenset(step.patterns)] for step in leaves(order)]
    if len(symbols) > MAX_STEPS:
        raise OrderSizeError(f"{len(symbols)} steps, and at most {MAX_STEPS} are possible")
    if len(letters) > MAX_LETTERS:
        raise OrderSizeError(f"steps that overlap in more than {MAX_LETTERS} ways")
    places = PositionAutomaton(symbols, order)
    subsets = SubsetAutomaton(places, [letter for letter in sorted(letters) if letter])
    return subsets.minimize(order_digest(order), tuple(map(step_words, distinct)))


# ── Positions ─────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Fragment:
    """A part of an order: the steps with which it can begin and end, and whether it may be empty."""

    first: Positions
    last: Positions
    empty: bool


class PositionAutomaton:
    """The position automaton of an order: `follow` has for each step the steps that may follow it. A step is its place
    among the leaves of the order; `symbols` has for each leaf the number of its distinct step."""

    def __init__(self, symbols: Sequence[int], order: Order) -> None:
        self.symbols = symbols
        self.follow: list[Positions] = [0] * len(symbols)
        self._count = 0
        whole = self._sequence(order)
        self.first, self.last, self.empty = whole.first, whole.last, whole.empty

    def _sequence(self, items: Iterable[CallStep | StepGroup]) -> Fragment:
        found = Fragment(0, 0, True)
        for item in items:
            after = self._item(item)
            self._link(found.last, after.first)
            found = Fragment(
                found.first | (after.first if found.empty else 0),
                after.last | (found.last if after.empty else 0),
                found.empty and after.empty,
            )
        return found

    def _item(self, item: CallStep | StepGroup) -> Fragment:
        if isinstance(item, CallStep):
            found = Fragment(1 << self._count, 1 << self._count, False)
            self._count += 1
        else:
            parts = [self._sequence(alternative) for alternative in item.alternatives]
            found = Fragment(0, 0, any(part.empty for part in parts))
            for part in parts:
                found.first, found.last = found.first | part.first, found.last | part.last
        if item.repeated:
            self._link(found.last, found.first)
        found.empty = found.empty or item.optional
        return found

    def _link(self, before: Positions, after: Positions) -> None:
        for place in bits(before):
            self.follow[place] |= after

    def matching(self, letter: int) -> Positions:
        """Return the steps that match a letter."""
        return sum(1 << place for place, symbol in enumerate(self.symbols) if letter >> symbol & 1)

    def after(self, state: Positions) -> Positions:
        """Return the steps that may follow a set of steps."""
        found = 0
        for place in bits(state):
            found |= self.follow[place]
        return found


def bits(mask: int) -> Iterator[int]:
    """Yield the places of the bits of a mask."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


# ── Determinization and minimization ──────────────────────────────────────────────────────────


class SubsetAutomaton:
    """The deterministic automaton whose states are sets of steps. Raises OrderSizeError."""

    def __init__(self, places: PositionAutomaton, letters: Sequence[int]) -> None:
        self._places, self._letters = places, letters
        matching = [places.matching(letter) for letter in letters]
        self._sets: list[Positions] = [0]  # the start
        self._exits: list[Positions] = [places.first]
        self._rows: list[list[int]] = []
        numbers: dict[Positions, int] = {}
        while len(self._rows) < len(self._sets):
            exits, row = self._exits[len(self._rows)], []
            for mask in matching:
                entered = exits & mask
                if entered and entered not in numbers:
                    if len(self._sets) >= MAX_STATES:
                        raise OrderSizeError(f"more than {MAX_STATES} states")
                    numbers[entered] = len(self._sets)
                    self._sets.append(entered)
                    self._exits.append(places.after(entered))
                row.append(numbers[entered] if entered else -1)
            self._rows.append(row)

    def _is_end(self, number: int) -> bool:
        return self._places.empty if number == 0 else bool(self._sets[number] & self._places.last)

    def _classes(self) -> list[int]:
        """Return the class of each state: states of one class have the same future. Classes are numbered by their first
        state."""
        classes = [int(self._is_end(number)) for number in range(len(self._rows))]
        count = 0
        while True:
            known: dict[tuple[int, ...], int] = {}
            classes = [
                known.setdefault((classes[number], *[classes[to] if to >= 0 else -1 for to in row]), len(known))
                for number, row in enumerate(self._rows)
            ]
            if len(known) == count:
                return classes
            count = len(known)

    def minimize(self, digest: int, steps: tuple[str, ...]) -> SequenceAutomaton:
        """Return the minimal automaton. States are numbered in the order in which they are reached."""
        classes = self._classes()
        count = max(classes) + 1
        rows: list[dict[int, int]] = [{} for _ in range(count)]
        entries: list[Positions] = [0] * count  # none for the start, even if a later state is equivalent
        exits: list[Positions] = [0] * count
        for number, row in enumerate(self._rows):
            own = classes[number]
            entries[own] |= self._sets[number] if own != START else 0
            exits[own] |= self._exits[number]
            rows[own] = {letter: classes[to] for letter, to in zip(self._letters, row, strict=True) if to >= 0}
        ends = frozenset(classes[number] for number in range(len(self._rows)) if self._is_end(number))
        return SequenceAutomaton(
            digest, tuple(rows), ends, steps,
            tuple(self._step_numbers(mask) for mask in entries), tuple(self._step_numbers(mask) for mask in exits),
        )  # fmt: skip

    def _step_numbers(self, mask: Positions) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self._places.symbols[place] for place in bits(mask)))
