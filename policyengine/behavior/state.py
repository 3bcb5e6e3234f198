"""The rows of all callers, and the model by which they are read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from policyengine.behavior.events import ALLOWED, FAILED, BehaviorEvent, Caller, RequestTags, Tagger
from policyengine.behavior.fold import (
    CallerFacts,
    KnownClass,
    ProfileSettings,
    advance,
    apply_decision,
    apply_failure,
    is_ready,
    read_facts,
)
from policyengine.behavior.group_search import find_groups_of
from policyengine.behavior.groups import CallerGroup
from policyengine.behavior.learn import learn_model
from policyengine.behavior.member_keys import MemberKeys
from policyengine.behavior.model import EMPTY_MODEL, FORMAT, MODEL_VERSION, NO_CLASS, BehaviorModel, ModelContent
from policyengine.behavior.recent_requests import RecentRequests, first_ready
from policyengine.behavior.row import HOUR, HOURS_OF_DAY, BehaviorRow

DAY: Final = HOUR * HOURS_OF_DAY
MAX_CALLERS: Final = 1_000_000
MAX_INSTANCES: Final = 1_000  # callers of one agent
USUAL: Final = ProfileSettings()
MAX_WAITING: Final = 1_000  # decisions that rows do not contain yet
NO_INSTANCES: Final[dict[Caller, None]] = {}  # never changed
NO_KNOWN_CLASS: Final = KnownClass(NO_CLASS)
NO_ROW: Final = BehaviorRow(0)  # never changed

SettingsOf = Callable[[str], ProfileSettings]  # the settings of a class
# Called with the model before, a new model, a function that returns the rows from which it was learned, and the
# settings of classes.
ModelListener: TypeAlias = Callable[
    [BehaviorModel, BehaviorModel, Callable[[], Iterable[tuple[Caller, str, BehaviorRow]]], SettingsOf], None
]
CLAMPED: Final = 1
RELEASED: Final = 2
# A decision or, with the outcome FAILED, a report of a failure: its time, the class, the tags of the endpoint and the
# run, the outcome, the sum of CLAMPED and RELEASED, the structure of the payload, and the letter of the declared order
# of calls.
CallerMoment: TypeAlias = tuple[int, str, int, int, int, int, int, int]


class CallerRow:
    """The class of a caller, and its row. A state keeps more members, so that each event finds them without a search:
    the callers of the same agent (`instances`), whether the caller is among those that are not ready (`is_new`), and
    whether the state dropped the caller (`is_dropped`).

    `waiting` is the latest decision about the caller, if the row does not contain it yet; the row contains all earlier
    ones. Until the next batch, `latest` is the latest decision, whether or not the row contains it, with its number
    among the decisions of the batch (`place`), and `named` are the latest facts that were named, with their names and
    values."""

    __slots__ = ("group", "instances", "is_dropped", "is_new", "latest", "named", "place", "row", "waiting")

    def __init__(self, group: str, row: BehaviorRow) -> None:
        self.group = group
        self.row = row
        self.instances = NO_INSTANCES
        self.is_new = False
        self.is_dropped = False
        self.waiting: CallerSnapshot | None = None
        self.latest: CallerSnapshot | None = None
        self.place = 0
        self.named: tuple[CallerFacts, dict[str, object]] | None = None


class CallerSnapshot:
    """The facts of one request, with the row and the model from which they were read. `at` is in milliseconds since
    1970, and `serial` is the number of events of the row at that time. `known` is what the state keeps about the
    caller. `outcome` and `clamped` are those of the decision, once the state has taken it."""

    __slots__ = (
        "at", "caller", "clamped", "facts", "group", "known", "model", "outcome", "row", "serial", "settings", "tags",
    )  # fmt: skip

    def __init__(
        self,
        caller: Caller,
        group: str,
        settings: ProfileSettings,
        tags: RequestTags,
        at: int,
        row: BehaviorRow,
        serial: int,
        model: BehaviorModel,
        facts: CallerFacts,
        known: CallerRow | None = None,
    ) -> None:
        self.caller = caller
        self.group = group
        self.settings = settings
        self.tags = tags
        self.at = at
        self.row = row
        self.serial = serial
        self.model = model
        self.facts = facts
        self.known = known
        self.outcome = ALLOWED
        self.clamped = False

    def to_facts(self) -> dict[str, object]:
        """Return the facts by their names after `behavior.`, in a dict that must not be changed."""
        facts, known = self.facts, self.known
        if known is None:
            return facts.to_facts()
        named = known.named
        if named is None or not named[0].is_same(facts):
            named = known.named = facts, facts.to_facts()
        return named[1]


class BehaviorState:
    """The rows of callers and the model. It is not thread-safe.

    A new model is learned at the first event of each day, from the rows at that moment, so that folding the same events
    again gives the same models. If there are too many callers, the least recently active one that is not ready is
    dropped, so that a flood of new keys does not displace callers that are ready. One agent has at most
    `most_instances` callers.

    A decision changes the row of its caller later: with the next request of the caller, in a batch of MAX_WAITING
    decisions, or when anything else is read. No reader sees the difference, because each of them has the waiting
    decisions folded first.
    """

    def __init__(
        self,
        tagger: Tagger,
        *,
        model: BehaviorModel = EMPTY_MODEL,
        most: int = MAX_CALLERS,
        most_instances: int = MAX_INSTANCES,
        learns: bool = True,
        tags: str = "",
    ) -> None:
        # The callers of each agent, the most recently active at the end.
        self._instances: dict[tuple[str, str], dict[Caller, None]] = {}
        # Ordered dicts, because the first key of a dict is searched among all keys that were deleted before it.
        self._new: OrderedDict[Caller, None] = OrderedDict()  # callers that are not ready
        self._rows: OrderedDict[Caller, CallerRow] = OrderedDict()
        # The callers of the decisions since the latest batch. Each is in it once, and only its latest decision is kept:
        # decisions that outlive their request would start the garbage collector again and again.
        self._active: list[CallerRow] = []
        self._decided = 0  # the decisions since the latest batch
        self.model, self.tagger, self.learns = model, tagger, learns
        self.members = MemberKeys(tagger.derive_key(b"members"))
        self.requests = RecentRequests()  # the requests in which groups are searched
        self._most, self._most_instances, self.tags = most, most_instances, tags
        self.learned_day = model.content.made // DAY
        self._versions: dict[Caller, Caller] | None = None  # of each caller, the most recently active version
        self.releases: Mapping[str, int] = {}  # until when a change of a class is planned, in milliseconds
        self.searched_day = model.content.grouped  # the day of the latest search, also if it failed
        self.searches = True  # whether `fold` searches groups: not after a search that failed
        self.on_model: ModelListener | None = None
        self.searches_inline = False  # whether `snapshot` also searches groups, because the clock is virtual
        # The classes of the model that were read, and the latest of them with its name.
        self._classes: dict[tuple[str, str], KnownClass] = {}
        self._classes_of: BehaviorModel | None = None
        self._class, self._class_issuer, self._class_group = NO_KNOWN_CLASS, "", ""

    @property
    def rows(self) -> dict[Caller, CallerRow]:
        """The rows, that of the most recently active caller at the end."""
        self.fold_waiting()
        return self._rows

    @rows.setter
    def rows(self, rows: dict[Caller, CallerRow]) -> None:
        for known in self._rows.values():
            known.is_dropped = True
        self._active, self._decided = [], 0
        self._rows = OrderedDict(rows)
        self._instances.clear()
        self._new = OrderedDict((caller, None) for caller, found in rows.items() if not is_ready(found.row, USUAL))
        for caller, known in rows.items():
            known.instances = self._instances.setdefault((caller.issuer, caller.agent), {})
            known.instances[caller] = None
            known.is_new = caller in self._new
            known.is_dropped, known.waiting, known.latest = False, None, None

    @property
    def callers(self) -> Mapping[Caller, CallerRow]:
        """The callers with their classes, in any order. The rows may lack waiting decisions."""
        return self._rows

    @property
    def count(self) -> int:
        """The number of callers."""
        return len(self._rows)

    def settings_at(self, settings: ProfileSettings, group: str, at: int) -> ProfileSettings:
        """Return the settings of a class at a time: a planned change may apply then."""
        if not self.releases or at >= self.releases.get(group, 0):
            return settings
        return settings.release()

    def row_at(self, caller: Caller, at: int, settings: ProfileSettings) -> BehaviorRow:
        """Return the row of a caller at this time; a new row if nothing is known about the caller."""
        found = self._rows.get(caller)
        if found is not None and found.waiting is not None:
            fold_waiting(found)
        row = self._new_row(caller, at) if found is None else found.row
        advance(row, at, settings)
        return row

    def row_to_read(self, caller: Caller, at: int, settings: ProfileSettings) -> BehaviorRow:
        """Return the row of a caller at this time, for facts. Decisions of an earlier hour may not be settled yet, so a
        row of an earlier hour is copied."""
        found = self._rows.get(caller)
        if found is None or found.row.hour == at // HOUR:
            return self.row_at(caller, at, settings)
        if found.waiting is not None:
            fold_waiting(found)
        row = found.row.copy()
        advance(row, at, settings)
        return row

    def read(
        self, row: BehaviorRow, issuer: str, group: str, tags: RequestTags, at: int, settings: ProfileSettings
    ) -> CallerFacts:
        """Return the facts of a request about its caller alone, from a row at its time."""
        return read_facts(row, self._class_of(issuer, group), tags, at, settings)

    def read_caller(
        self, row: BehaviorRow, caller: Caller, group: str, tags: RequestTags, at: int, settings: ProfileSettings
    ) -> CallerFacts:
        """Return the facts of a request about its caller and its group, from a row at its time."""
        facts = read_facts(row, self._class_of(caller[0], group), tags, at, settings)  # `caller.issuer` takes longer
        if settings.groups and self.model.has_groups:
            put_group(facts, self.model.group_of(self.members.of(caller.issuer, caller.agent)))
        return facts

    def _class_of(self, issuer: str, group: str) -> KnownClass:
        """Return the model of a class."""
        model = self.model
        if model is not self._classes_of:
            self._classes_of = model
            self._classes.clear()
        elif group == self._class_group and issuer == self._class_issuer:
            return self._class
        name = issuer, group
        found = self._classes.get(name)
        if found is None:
            learned = model.classes.get(name)
            found = NO_KNOWN_CLASS if learned is None else KnownClass(learned)
            if learned is not None:
                self._classes[name] = found
        self._class, self._class_issuer, self._class_group = found, issuer, group
        return found

    def snapshot(
        self, caller: Caller, group: str, tags: RequestTags, at: int, settings: ProfileSettings, settings_of: SettingsOf
    ) -> CallerSnapshot:
        """Return the facts of a request, with the row and the model from which they were read. `settings` are those of
        the class. Before that, learn a model if one is due."""
        known, row, settings, facts = self.look_up(caller, group, tags, at, settings, settings_of)
        return CallerSnapshot(caller, group, settings, tags, at, row, row.serial, self.model, facts, known)

    def look_up(
        self,
        caller: Caller,
        group: str,
        tags: RequestTags,
        at: int,
        settings: ProfileSettings,
        settings_of: SettingsOf,
        known: CallerRow | None = None,
    ) -> tuple[CallerRow | None, BehaviorRow, ProfileSettings, CallerFacts]:
        """Return what is known about a caller, its row, the settings at the time of a request, and its facts. `known`
        is the known caller of an earlier request, which need not be looked up again."""
        if at // DAY != self.learned_day:
            self.learn_if_due(at, settings_of)
        if self.releases:
            settings = self.settings_at(settings, group, at)
        if settings.groups and self.searches_inline and self.searches and self.is_search_due(at):
            self.search_groups(at)
        if known is None or known.is_dropped:
            known = self._rows.get(caller)
        if known is None or known.row.hour != at // HOUR:
            row = self.row_to_read(caller, at, settings)
        else:
            if known.waiting is not None:
                fold_waiting(known)
            row = known.row
        return known, row, settings, self.read_caller(row, caller, group, tags, at, settings)

    def is_unchanged(self, reading: CallerSnapshot) -> bool:
        """Return whether the row of a caller has no event after those that were read."""
        known = reading.known
        if known is None or known.is_dropped:
            known = self._rows.get(reading.caller)
            if known is None:
                return reading.serial == 0
        return known.waiting is None and reading.serial == known.row.serial

    def has_same_facts(self, reading: CallerSnapshot) -> bool:
        """Return whether a request still has the facts that were read."""
        caller, at, settings = reading.caller, reading.at, reading.settings
        row = self.row_to_read(caller, at, settings)
        again = self.read_caller(row, caller, reading.group, reading.tags, at, settings)
        return again.values() == reading.facts.values() and again.group() == reading.facts.group()

    def settle(self, reading: CallerSnapshot, outcome: int, clamped: bool) -> int:
        """Take the decision for which the row of a caller was read. If the row has not changed since, the decision
        waits; otherwise read the row again, and update it now. Return the number of events of the row with this one."""
        known, row, serial = reading.known, reading.row, reading.serial
        if known is None or known.is_dropped or known.waiting is not None or row.serial != serial:
            return self._settle_now(reading, outcome, clamped)
        if known.row is not row:
            if known.row.serial != serial:
                return self._settle_now(reading, outcome, clamped)
            known.row = row  # the same row, advanced to the hour of the decision
        reading.outcome, reading.clamped = outcome, clamped
        if known.latest is None:
            self._active.append(known)
        known.waiting = known.latest = reading
        if reading.settings.groups:
            tags = reading.tags
            self.requests.add(reading.at, reading.caller, tags.endpoint, tags.run, outcome)
        known.place = self._decided = self._decided + 1
        if self._decided >= MAX_WAITING:
            self.fold_waiting()
        return serial + 1

    def _settle_now(self, reading: CallerSnapshot, outcome: int, clamped: bool) -> int:
        """Update the row of a caller with the decision for which the row was read; if the row has changed since, read
        it again first. Return the number of events of the row."""
        self.fold_waiting()
        at, caller, settings = reading.at, reading.caller, reading.settings
        row, facts = reading.row, reading.facts
        known = self._rows.get(caller)
        if row.serial != reading.serial or (reading.serial > 0 if known is None else known.row is not row):
            row = self.row_at(caller, at, settings)
            facts = self.read_caller(row, caller, reading.group, reading.tags, at, settings)
        apply_decision(row, facts, reading.tags, at, outcome, clamped, settings)
        if settings.groups:
            self.requests.add(at, caller, reading.tags.endpoint, reading.tags.run, outcome)
        self._keep(caller, reading.group, row, settings)
        return row.serial

    def fold_waiting(self) -> None:
        """Update the rows with all waiting decisions, and make their callers the most recently active ones."""
        if not self._active:
            return
        active, self._active, self._decided = self._active, [], 0
        active.sort(key=place_of)
        for known in active:
            reading = known.latest
            if reading is not None and not known.is_dropped:
                if known.waiting is not None:
                    fold_waiting(known)
                known.latest = known.named = None
                self._keep(reading.caller, reading.group, known.row, reading.settings)

    def fold(self, event: BehaviorEvent, settings_of: SettingsOf) -> CallerFacts:
        """Update the row of the caller with a decision. Return the facts of its request."""
        at, caller, group, endpoint, run, outcome, clamped, released, shape, letter = event
        if self._active:
            self.fold_waiting()
        if at // DAY != self.learned_day:
            self.learn_if_due(at, settings_of)
        settings = settings_of(group)
        if settings.groups and self.learns and self.searches and self.is_search_due(at):
            self.search_groups(at)
        if released:
            settings = settings.release()
        known = self._rows.get(caller)
        row = self._new_row(caller, at) if known is None else known.row
        if at // HOUR != row.hour:
            advance(row, at, settings)
        tags = RequestTags(self.tagger.tag(endpoint), run, shape, letter)
        reading = self.read_caller(row, caller, group, tags, at, settings)
        apply_decision(row, reading, tags, at, outcome, clamped, settings)
        if settings.groups:
            self.requests.add(at, caller, tags.endpoint, tags.run, outcome)
        self._keep(caller, group, row, settings)
        return reading

    def fold_run(self, caller: Caller, moments: Iterable[CallerMoment], settings_of: SettingsOf) -> None:
        """Update the row of one caller with consecutive decisions and reports of failures, as `fold` and `fold_failure`
        do. No model is learned."""
        self.fold_waiting()
        known = self._rows.get(caller)
        row, settings = (None if known is None else known.row), USUAL
        name: str | None = None  # the class of the latest decision
        usual, known_class = USUAL, NO_KNOWN_CLASS
        for at, group, endpoint, run, outcome, flags, shape, letter in moments:
            if outcome == FAILED:
                if row is not None:
                    apply_failure(row)
                continue
            if group != name:
                name, usual, known_class = group, settings_of(group), self._class_of(caller.issuer, group)
            settings = usual.release() if flags & RELEASED else usual
            if row is None:
                row = self._new_row(caller, at)
            if at // HOUR != row.hour:
                advance(row, at, settings)
            tags = RequestTags(endpoint, run, shape, letter)
            reading = read_facts(row, known_class, tags, at, settings)
            apply_decision(row, reading, tags, at, outcome, bool(flags & CLAMPED), settings)
        if row is not None and name is not None:
            self._keep(caller, name, row, settings)

    def has_room(self, callers: int) -> bool:
        """Return whether this number of new callers can be added without dropping a caller."""
        return len(self._rows) + callers <= self._most

    def sort_latest(self, callers: Iterable[Caller]) -> None:
        """Make these callers the most recently active ones, the last of them at the end."""
        self.fold_waiting()
        rows, new = self._rows, self._new
        for caller in callers:
            if caller in rows:
                rows.move_to_end(caller)
                if caller in new:
                    new.move_to_end(caller)

    def fold_failure(self, caller: Caller) -> None:
        """Update the row of a caller with the report that a request failed. Unknown callers are ignored."""
        found = self._rows.get(caller)
        if found is not None:
            if found.waiting is not None:
                fold_waiting(found)
            apply_failure(found.row)

    def _new_row(self, caller: Caller, at: int) -> BehaviorRow:
        """Return the first row of a caller. The row of a new version derives from the most recently active version."""
        if not caller.version:
            return BehaviorRow(at)
        self.fold_waiting()
        if self._versions is None:
            self._versions = {unversioned(known): known for known in self._rows if known.version}
        earlier = self._versions.get(unversioned(caller))
        found = None if earlier is None else self._rows.get(earlier)
        return BehaviorRow(at) if found is None else found.row.successor()

    def _keep(self, caller: Caller, group: str, row: BehaviorRow, settings: ProfileSettings) -> None:
        """Keep the row of a caller as the most recently active one."""
        rows, known = self._rows, self._rows.get(caller)
        if known is None:
            known = rows[caller] = self._new_caller(caller, group, row)
        else:
            known.group, known.row = group, row
            rows.move_to_end(caller)
        is_new = not is_ready(row, settings)
        if is_new:
            self._new[caller] = None
            self._new.move_to_end(caller)
        elif known.is_new:
            self._new.pop(caller, None)
        known.is_new = is_new
        instances = known.instances
        if len(instances) > 1:
            instances.pop(caller, None)
            instances[caller] = None
        if caller.version and self._versions is not None:
            self._versions[unversioned(caller)] = caller
            if len(self._versions) > 2 * self._most:
                self._versions = None

    def _new_caller(self, caller: Caller, group: str, row: BehaviorRow) -> CallerRow:
        """Return the entry of a new caller, after dropping another caller if there is no room."""
        agent = caller.issuer, caller.agent
        self._make_room(self._instances.get(agent, {}))
        known = CallerRow(group, row)
        known.instances = self._instances.setdefault(agent, {})
        known.instances[caller] = None
        return known

    def _make_room(self, instances: Mapping[Caller, None]) -> None:
        """Make room for a new caller of an agent with the callers `instances`. If the agent or the whole state has the
        maximum number of callers, drop the least recently active one, if possible one that is not ready.
        """
        if len(instances) >= self._most_instances:
            self._drop(next((one for one in instances if one in self._new), next(iter(instances))))
        elif len(self._rows) >= self._most:
            self._drop(next(iter(self._new), None) or next(iter(self._rows)))

    def _drop(self, caller: Caller) -> bool:
        """Drop a caller. Return whether anything was known about it."""
        agent = caller.issuer, caller.agent
        instances = self._instances.get(agent, {})
        instances.pop(caller, None)
        if not instances:
            self._instances.pop(agent, None)
        self._new.pop(caller, None)
        known = self._rows.pop(caller, None)
        if known is None:
            return False
        known.is_dropped, known.row = True, NO_ROW  # others may still refer to a dropped caller
        return True

    def forget(self, wanted: Callable[[Caller], bool]) -> int:
        """Forget the callers for which `wanted` returns true, and remove them from their groups. Return their
        number."""
        self.fold_waiting()
        found = [caller for caller in self._rows if wanted(caller)]
        if self.model.has_groups:
            self.model = self.model.without_members({self.members.of(one.issuer, one.agent) for one in found})
        return sum(map(self._drop, found))

    def forget_row(self, caller: Caller) -> None:
        """Forget the row of one caller, if there is one."""
        self.fold_waiting()
        self._drop(caller)

    def forget_model(self) -> None:
        """Forget everything that was learned about classes."""
        content = self.model.content
        self.model = BehaviorModel(
            ModelContent(FORMAT, MODEL_VERSION, content.serial + 1, content.made, self.tags, ())
        )  # fmt: skip

    def learn_if_due(self, at: int, settings_of: SettingsOf) -> None:
        """Learn a new model if a day has begun since the last one."""
        if self.learns and self.is_due(at):
            self.learn(at, settings_of)

    def is_due(self, at: int) -> bool:
        """Return whether a day has begun since the last model was learned, or the clock was wrong then."""
        return begins_day(at // DAY, self.learned_day)

    def learn(self, at: int, settings_of: SettingsOf) -> None:
        """Learn a new model from the rows."""
        rows, before = self.taught_rows(), self.model
        self.learned_day = at // DAY
        self.model = learn_model(rows, settings_of, at, before.content.serial + 1, self.tags, before)
        if self.on_model is not None:
            self.on_model(before, self.model, self.taught_rows, settings_of)

    def taught_rows(self) -> list[tuple[Caller, str, BehaviorRow]]:
        """Return the rows from which models are learned, with their callers and classes."""
        self.fold_waiting()
        return [(caller, found.group, found.row) for caller, found in self._rows.items()]

    # ── Groups ────────────────────────────────────────────────────────────────────────────────

    def is_search_due(self, at: int) -> bool:
        """Return whether groups were not yet searched for on this day. A late request, from the day before, starts no
        search."""
        return all(begins_day(at // DAY, day) for day in (self.model.content.grouped, self.searched_day))

    def search_groups(self, at: int, ready: Mapping[tuple[str, str], int] | None = None) -> None:
        """Search for groups in the requests of the last days before the day of a time. `ready` has the time since which
        each agent is ready, if this state does not contain the rows. If the search fails, the groups do not change."""
        day = at // DAY
        if ready is None:
            self.fold_waiting()
            ready = first_ready((caller, found.row.ready_day) for caller, found in self._rows.items())
        found = find_groups_of(self.requests, self.model.content.groups, ready, self.members, day)
        self.searched_day, self.searches = day, found is not None
        if found is not None:
            self.model = self.model.with_groups(found, day)


def fold_waiting(known: CallerRow) -> None:
    """Update the row of a caller with the decision that waits."""
    reading = known.waiting
    if reading is not None:
        try:
            apply_decision(
                known.row, reading.facts, reading.tags, reading.at, reading.outcome, reading.clamped, reading.settings
            )
        finally:  # after the serial has changed: `is_unchanged` looks without a lock, and has to see one of both
            known.waiting = None


def place_of(known: CallerRow) -> int:
    return known.place


def put_group(facts: CallerFacts, group: CallerGroup | None) -> None:
    """Add the group of the caller to its facts."""
    if group is not None:
        facts.cluster, facts.cluster_size = group.id, group.size


def begins_day(day: int, learned: int) -> bool:
    """Return whether a model is learned, or groups are searched for, at the first event of a day; `learned` is the day
    of the latest model or search."""
    return day > learned or day < learned - 1


def unversioned(caller: Caller) -> Caller:
    return caller._replace(version="")
