"""The quick way: a question as it came, to its decision, where every fact that matters is there and plain.

It returns None where it is not sure. What no rule at the endpoint asks about it does not look at, but that the question
has the form of one.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from policyengine.compiler.driver import LONGEST_PATH, MEMBERS, MISSED, Driver, Form, Question, form_of
from policyengine.compiler.leaves import PLAIN, Branch, Leaf, Leaves, Side
from policyengine.compiler.reads import in_force, instant, named, plain_strings
from policyengine.compiler.rules import Rule
from policyengine.compiler.verdicts import OPEN, Verdicts
from policyengine.runtime.decision import Decision, serials
from policyengine.runtime.paths import METHOD

Answered: TypeAlias = Callable[[Question], Any]

MOST_FORMS = 256
MOST_HEADS = 8_192
# What reading a question of another form than was expected comes to.
OTHER_FORM = (KeyError, TypeError, AttributeError)
BESIDE = (MEMBERS["request"] or frozenset()) - {"method", "path"}  # what a tool or an action may come with
NO_MEMBERS: dict[str, object] = {}


def plain(name: object) -> bool:
    return name is None or named(name)


def tame(members: Any) -> bool:
    """Whether these are members of which none could override the method."""
    return type(members) is dict and all(type(name) is str and "method" not in name.lower() for name in members)


class Quick:
    """Finds the function for a question by its form, and writes it when a form is new. `now` gives nanoseconds."""

    def __init__(self, leaves: Leaves, now: Callable[[], int]) -> None:
        kernel = leaves.kernel
        waiving = {*kernel.unrestricted}
        self._limited = bool(kernel.delegation)
        self._waives = True if {*kernel.packages} <= waiving else None if waiving else False
        self._drivers: dict[Form, Answered] = {}
        self._by_length: list[Answered] = [missed] * (len(MEMBERS) + 1)
        verdicts = Verdicts(kernel.package, kernel.revision)
        self._paths = leaves.paths
        self._heads: dict[str, Branch] = {}
        self._space: dict[str, Any] = {
            "ALLOW": verdicts.allow, "Decision": Decision, "MISSED": MISSED, "NOTHING_OPENS": verdicts.nothing_opens,
            "OPEN": OPEN, "asked_each": asked_each, "elsewhere": elsewhere, "heads": self._heads,
            "in_force": in_force, "instant": instant, "leaves": leaves, "named": named, "now": now, "plain": plain,
            "plain_strings": plain_strings, "standing": standing, "take": serials.__next__, "tame": tame,
            "verdict": verdicts.at, "walk": self.walk,
            "recording": frozenset(name for name, issuer in kernel.issuers.items() if issuer.records_chains),
        }  # fmt: skip

    def __call__(self, question: Question) -> Decision | None:
        """The decision; None where it is to be made with care."""
        try:
            found = self._by_length[len(question)](question)
        except OTHER_FORM:
            found = MISSED
        except IndexError:
            return None
        return self._of_form(question) if found is MISSED else found

    def _of_form(self, question: Question) -> Decision | None:
        try:
            form = form_of(question)
            if form is None:
                return None
            driver = self._by_length[len(question)] = self._drivers.get(form) or self._written(form)
            found = driver(question)
        except OTHER_FORM:
            return None
        return None if found is MISSED else found

    def _written(self, form: Form) -> Answered:
        if len(self._drivers) >= MOST_FORMS:
            self._drivers.clear()
        text = Driver(form, self._limited, self._waives).text()
        name = f"<policyengine driver {' '.join(root for root, _ in form)}>"
        space = dict(self._space)
        exec(compile(text, name, "exec"), space)
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        driver: Answered = space["driver"]
        self._drivers[form] = driver
        return driver

    def walk(self, method: str, path: str) -> tuple[Leaf, Any] | None:
        """The leaf of a path, segment by segment, and its parts; None where it is not canonical as it stands."""
        if len(path) > LONGEST_PATH or not path.isascii():
            return None
        parts = path.split("/")
        if not parts[-1]:
            if len(parts) < 2:
                return None
            parts.pop()
        if parts[0] or METHOD.fullmatch(method) is None:
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
        if len(parts) > 2:
            self._heads["/".join(parts[:-1])] = branch


def canonical(part: str) -> bool:
    """Whether a segment is plain: nothing could read it as another one."""
    return part.isalnum() or PLAIN(part) is not None


# ── What drivers call ─────────────────────────────────────────────────────────────────────────


def missed(question: Question) -> Any:
    return MISSED


def asked_each(side: Side, name: str | None) -> Iterator[Rule]:
    """The rules that must be asked each time: of the globs that fit, and of conditions."""
    if name is not None:
        yield from (rule for glob, rule in side.globs if glob.matches(name))
        if side.others is not None:
            yield side.others


def standing(side: Side, name: str | None, groups: Any, given: tuple[Any, ...]) -> bool | None:
    """Whether a block stands for the caller, by the rules that have no doors; None where that is not sure."""
    if name is None:
        return False
    for rule in standing_rules(side, name, groups):
        answer = None if rule is None else rule(*given)
        if answer is None:
            return None
        if answer is not False:
            return True
    return False


def standing_rules(side: Side, name: str, groups: Any) -> Iterator[Rule | None]:
    """None where nobody knows which groups the caller is in."""
    if name in side.names:
        yield side.names.made(name)
    if side.groups:
        if not plain_strings(groups):
            yield None
        yield from (side.groups.made(group) for group in groups if group in side.groups)
    yield from asked_each(side, name)


def elsewhere(q: Question, leaves: Leaves) -> tuple[Leaf, Any] | None:
    """The leaf of a tool or an action, and what stands for the parts of a path; None where that is not sure."""
    if not BESIDE.issuperset(q.get("request", NO_MEMBERS)):
        return None
    if "tool" in q:
        tool, server = q["tool"].get("name"), q["tool"].get("server")
        if not named(tool) or ("/" in tool if server is None else not named(server) or "/" in server):
            return None
        qualified = tool if server is None else f"{server}/{tool}"
        return leaves.at_tool(qualified), qualified
    verb, type_ = q["action"].get("name"), q.get("resource", NO_MEMBERS).get("type")
    return (leaves.at_action(verb, type_), ()) if named(verb) and named(type_) else None
