"""The quick way: a question as it came, to its decision, where every fact that matters is there and plain.

It returns None where it is not sure. What no rule at the endpoint asks about it does not look at, but that the question
has the form of one.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any, TypeAlias

from policyengine.compiler.branches import PLAIN, Branch
from policyengine.compiler.driver import MEMBERS, MISSED, Driver, Form, Question, form_of
from policyengine.compiler.leaf import Leaf, Side
from policyengine.compiler.leaves import Leaves
from policyengine.compiler.pending import well_said
from policyengine.compiler.reads import in_force, instant, named, only_str, plain_strings
from policyengine.compiler.rules import Rule
from policyengine.compiler.verdicts import OPEN, Verdicts
from policyengine.runtime.decision import Answer, Decision, Outcome, PrincipalTuple
from policyengine.runtime.history import HistoryRecord
from policyengine.runtime.ids import Stamp, serials
from policyengine.runtime.paths import MAX_PATH_LENGTH, MAX_SEGMENTS, METHOD
from policyengine.runtime.values import MAX_ELEMENTS
from policyengine.spec.issuer_users import speaks_for
from policyengine.spec.reason_texts import FOR_THE_GATEWAY

Answered: TypeAlias = Callable[[Question], Any]

MOST_FORMS = 256
MOST_HEADS, LONGEST_HEAD = 8_192, 256


def plain(name: object) -> bool:
    return name is None or named(name)


def free(members: Any) -> bool:
    """Whether these are members of any name, which can be looked up as they are."""
    return type(members) is dict and len(members) <= MAX_ELEMENTS and only_str(map(type, members))


def tame(members: Any) -> bool:
    """Whether these are members of which none could override the method."""
    if type(members) is not dict or len(members) > MAX_ELEMENTS:
        return False
    for name in members:  # a generator takes longer for the few that there are
        if type(name) is not str:
            return False
        if "method" in name.lower():
            return False
    return True


def met(answer: Answer, supported: Any) -> bool:
    """Whether a gateway that says which obligations it supports can meet all that it has to."""
    return all(duty.kind in supported for duty in answer.obligations if duty.kind in FOR_THE_GATEWAY)


def all_named(texts: Any) -> bool:
    return plain_strings(texts) and "" not in texts


Charge: TypeAlias = Callable[[Answer, PrincipalTuple, Stamp, tuple[Any, ...]], Decision | None]
# With what is remembered, and how often histories had changed before they were looked into.
Note: TypeAlias = Callable[
    [Answer, PrincipalTuple, Stamp, tuple[Any, ...], tuple[HistoryRecord, ...], int], Decision | None
]


@lru_cache(maxsize=MOST_FORMS)
def compile_driver(text: str, name: str) -> CodeType:
    """Compile a driver. Nothing of a policy stands in it, so engines share it: also the one after a reload."""
    return compile(text, name, "exec")


class Quick:
    """Finds the function for a question by its form, and writes it when a form is new. `now` gives nanoseconds.

    Where an allowed request takes of limits, `charge` makes the decision of that; without it, it is left to care.
    """

    def __init__(
        self,
        leaves: Leaves,
        now: Callable[[], int],
        charge: Charge | None = None,
        note: Note | None = None,
        *,
        at_once: bool = False,
    ) -> None:
        self._at_once = at_once
        self._spends, self._note = charge is not None, note
        kernel = leaves.kernel
        self._recalls = bool(kernel.watches) and leaves.recall is not None
        waiving = {*kernel.unrestricted}
        self._limited = bool(kernel.delegation)
        self._waives = {*kernel.packages} <= waiving
        self._waiving = bool(waiving)
        self._choosy = {name: issuer for name, issuer in kernel.issuers.items() if issuer.users_like}
        advisory = {*kernel.advisory}
        self._bounded = None if advisory and {*kernel.packages} - advisory else not advisory
        self._issuers = leaves.trust.issuers
        self._drivers: dict[Form, Answered] = {}
        self._by_length: list[Answered] = [missed] * (len(MEMBERS) + 1)
        verdicts = self._verdicts = Verdicts(kernel.package, kernel.revision)
        self._paths = leaves.paths
        self._heads: dict[str, Branch] = {}
        self._places: dict[tuple[str, Any, Any], tuple[Leaf, Any]] = {}
        self._leaves = leaves
        self._space: dict[str, Any] = {
            "ALLOW": verdicts.allow, "ALLOWED": Outcome.ALLOW, "Decision": Decision, "MISSED": MISSED,
            "NOTHING_OPENS": verdicts.nothing_opens, "charge": charge,
            "choosy": self._choosy, "speaks_for": speaks_for,
            "changes": leaves.recall.changes if leaves.recall is not None else None, "noted": self.noted,
            "OPEN": OPEN, "all_named": all_named, "denied": self.denied, "elsewhere": self.elsewhere,
            "free": free, "heads": self._heads, "in_force": in_force, "instant": instant, "issuers": self._issuers,
            "known": leaves.known_names.__contains__, "known_groups": leaves.known_groups, "met": met, "named": named,
            "now": now, "only_str": only_str, "opened_by_globs": opened_by_globs, "places": self._places,
            "plain": plain, "plain_strings": plain_strings, "take": serials.__next__, "tame": tame,
            "verdict": verdicts.at, "walk": self.walk, "well_said": well_said,
            "recording": frozenset(name for name, issuer in kernel.issuers.items() if issuer.records_chains),
        }  # fmt: skip

    def __call__(self, question: Question) -> Decision | None:
        """The decision; None where it is to be made with care. What is raised on the way may have been spent already:
        nobody decides it again."""
        length = len(question)
        if length > len(MEMBERS):
            return None
        found = self._by_length[length](question)
        return self._of_form(question) if found is MISSED else found

    def _of_form(self, question: Question) -> Decision | None:
        form = form_of(question)
        if form is None:
            return None
        driver = self._by_length[len(question)] = self._drivers.get(form) or self._written(form)
        found = driver(question)
        return None if found is MISSED else found

    def driver_text(self, form: Form) -> str:
        """The text of the function for one form of question."""
        settled = self._limited, self._waives, self._spends, self._recalls, self._at_once, bool(self._choosy)
        return Driver(form, *settled, self._bounded).text()

    def _written(self, form: Form) -> Answered:
        if len(self._drivers) >= MOST_FORMS:
            self._drivers.clear()
        text = self.driver_text(form)
        name = f"<policyengine driver {' '.join(root for root, _ in form)}>"
        space = dict(self._space)
        exec(compile_driver(text, name), space)
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        driver: Answered = space["driver"]
        self._drivers[form] = driver
        return driver

    def denied(
        self,
        leaf: Leaf,
        by_agent: bool,
        opened: bool,
        serves: bool,
        acting: int,
        groups: Any,
        scopes: Any,
        given: tuple[Any, ...],
    ) -> Answer | None:
        """What is said where something is in the way: all of it. None where that is not sure."""
        agent, issuer, user = given[2:5]
        if not plain(agent) or not plain(issuer):
            return None
        name = agent if by_agent else user
        served = not serves or is_open(leaf.served, user, given)
        if not served and (self._waiving or told(leaf.told_served, user, (), given) is None):
            return None
        if leaf.told_anyone is not None and leaf.told_anyone(*given) is None:
            return None
        if opened:  # by scopes that are strings and nothing else: others may be equal to any
            sure = scopes is None or plain_strings(scopes)
            return self._verdicts.at(leaf, (True, True, (), served), acting) if sure else None
        closed = told(leaf.told_agents if by_agent else leaf.told_users, name, groups, given)
        if closed is None or (closed and not plain_strings(scopes)):
            return None
        if closed is False:
            found = stands(leaf.standing_agents if by_agent else leaf.standing_users, name, groups, given)
            if not found:
                return None if found is None else self._verdicts.at(leaf, (False, False, (), served), acting)
        if not closed and served and not acting:
            return self._verdicts.nothing_opens
        return self._verdicts.at(leaf, (True, False, closed or (), served), acting)

    def noted(
        self, leaf: Leaf, answer: Answer, asker: PrincipalTuple, stamp: Stamp, given: tuple[Any, ...], changes: int
    ) -> Decision | None:
        """An allow that rests on the past, or is remembered: made where the histories are still what they were."""
        charges = () if leaf.limits is None else leaf.limits(*given)
        records = () if leaf.records is None else leaf.records(*given)
        if charges is None or records is None or self._note is None:
            return None
        return self._note(
            answer, asker, stamp, leaf.taker.charges(charges) if leaf.taker else charges, records, changes
        )

    def elsewhere(self, key: tuple[str, Any, Any]) -> tuple[Leaf, Any] | None:
        """The leaf of a tool or an action, and what stands for the parts of a path; None where that is not sure."""
        kind, of, name = key
        if kind == "tool":
            if not named(name) or ("/" in name if of is None else not named(of) or "/" in of):
                return None
            qualified = name if of is None else f"{of}/{name}"
            place: tuple[Leaf, Any] = self._leaves.at_tool(qualified), qualified
            known = self._leaves.knows_tool(qualified)
        else:
            if not named(of) or not named(name):
                return None
            place = self._leaves.at_action(of, name), ()
            known = self._leaves.knows_action(of, name)
        if known:
            self._places[key] = place
        return place

    def walk(self, method: str, path: str) -> tuple[Leaf, Any] | None:
        """The leaf of a path, segment by segment, and its parts; None where it is not canonical as it stands."""
        if len(path) > MAX_PATH_LENGTH or not path.isascii():
            return None
        parts = path.split("/", MAX_SEGMENTS + 2)
        if not parts[-1]:
            if len(parts) < 2:
                return None
            parts.pop()
        if parts[0] or len(parts) > MAX_SEGMENTS or METHOD.fullmatch(method) is None:
            return None
        branch = self._paths.start
        for place, part in enumerate(parts):
            then = self._paths.step(branch, part)
            if part not in branch.next and not canonical(part):  # the literals of a policy are canonical
                return None
            if place == len(parts) - 1:
                self._remember(parts, branch)
            if then is None:
                return self._beyond(branch, method, parts, place)
            branch = then
        return self._paths.at(branch, method, ended=True), parts

    def _beyond(self, branch: Branch, method: str, parts: list[str], place: int) -> tuple[Leaf, Any] | None:
        """The leaf of a path that goes on where no pattern tells its segments apart."""
        if not all(map(canonical, parts[place + 1 :])):
            return None
        if place < len(parts) - 1:
            self._remember(parts, self._paths.beyond(branch))
        return self._paths.at(branch, method, ended=False), parts

    def _remember(self, parts: list[str], branch: Branch) -> None:
        """Where the last segment of such a path begins: collections are asked for again and again, things are not."""
        if len(self._heads) >= MOST_HEADS:
            self._heads.clear()
        head = "/".join(parts[:-1])
        if 0 < len(head) <= LONGEST_HEAD:
            self._heads[head] = branch


def canonical(part: str) -> bool:
    """Whether a segment is plain: nothing could read it as another one."""
    return part.isalnum() or PLAIN(part) is not None


# ── What drivers call ─────────────────────────────────────────────────────────────────────────


def missed(question: Question) -> Any:
    return MISSED


def opened_by_globs(side: Side, name: str | None, given: tuple[Any, ...]) -> bool:
    return name is not None and any(glob.matches(name) and rule(*given) is True for glob, rule in side.globs)


def is_open(side: Side, name: str, given: tuple[Any, ...]) -> bool:
    by_name = name in side.names and side.names.made(name)(*given) is True
    return by_name or any(rule(*given) is True for rule in others(side, name))


def others(side: Side, name: str | None) -> Iterator[Rule]:
    """The rules that must be asked each time: of the globs that fit, and of conditions."""
    if name is not None:
        yield from (rule for glob, rule in side.globs if glob.matches(name))
        if side.others is not None:
            yield side.others


def told(side: Side, name: str | None, groups: Any, given: tuple[Any, ...]) -> Any:
    """What doors tell that are not open: False, or the scopes that would have opened one. None: it is not sure."""
    rule = side.names.get(name)
    if rule is None:
        if not plain(name):
            return None
        closed = False
    else:
        closed = (side.names.made(name) if type(rule) is tuple else rule)(*given)
    if side.more and closed is not None:
        for rule in beyond(side, name, groups):
            answer = None if rule is None else rule(*given)
            if answer is None or (answer and closed):
                return None  # the order of two lists of scopes is told with care
            if answer is not False and (answer or closed is False):
                closed = answer
    return closed


def beyond(side: Side, name: str | None, groups: Any) -> Sequence[Rule | None]:
    """The rules that are not by name; None where nobody knows which groups the caller is in."""
    found: list[Rule | None] = []
    if side.groups and name is not None:
        if plain_strings(groups):
            for group in groups:
                if group in side.groups:
                    found.append(side.groups.made(group))
        else:
            found.append(None)
    if side.each:
        found += others(side, name)
    return found


def stands(side: Side, name: str | None, groups: Any, given: tuple[Any, ...]) -> bool | None:
    """Whether a block stands for the caller, wherever its doors are; None where that is not sure."""
    rule = side.names.get(name)
    if rule is not None:
        answer = (side.names.made(name) if type(rule) is tuple else rule)(*given)
        if answer is not False:
            return None if answer is None else True
    for rule in beyond(side, name, groups) if side.more else ():
        answer = None if rule is None else rule(*given)
        if answer is not False:
            return None if answer is None else True
    return False
