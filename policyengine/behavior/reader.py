"""Reads and learns the behavior of callers for one engine, and finds the caller of a request and its class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from policyengine import kernel as k
from policyengine.behavior.events import (
    ALLOWED,
    DENIED,
    HELD,
    MAX_NAME_CHARACTERS,
    NO_RUN,
    Caller,
    RequestTags,
    event_time,
    name_caller,
)
from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.local_learner import LocalLearner, LocalSnapshot
from policyengine.behavior.shape import NO_SHAPE, structure_tag
from policyengine.behavior.state import CallerRow, CallerSnapshot, SettingsOf
from policyengine.checker.patterns.step_letters import order_automaton
from policyengine.compiler.endpoint_patterns import EndpointPatterns
from policyengine.evaluator.program import PolicyProgram
from policyengine.evaluator.verdicts import NO_EFFECTS
from policyengine.kernel.learned_facts import learned_fact_names, reads_groups
from policyengine.kernel.sequence_automaton import NO_LETTER, distinct_steps
from policyengine.runtime.behavior import CallerCharge
from policyengine.runtime.current_caller import outcome_key
from policyengine.runtime.decision import Decision, Effects, Gate, Outcome, RateState
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, MalformedEndpoint, ToolEndpoint
from policyengine.runtime.fact_access import fact_at
from policyengine.runtime.globs import Glob
from policyengine.runtime.snapshot import LearnedFacts
from policyengine.spec.match_endpoint import match_pattern

MILLISECOND: Final = timedelta(milliseconds=1)
DAY: Final = timedelta(days=1)
MAX_GROUPS: Final = 65_536  # cached classes of callers
MAX_IDENTIFIED: Final = 16_384  # cached callers
MAX_LETTERS: Final = 16_384  # cached letters of a profile
ENCODE: Final = msgspec.json.Encoder(decimal_format="number").encode
NO_SETTINGS: Final = ProfileSettings()
# Compiled code searches the names of other modules, and the members of classes, at each use, but no constants.
ALLOW: Final = Outcome.ALLOW
HTTP_ENDPOINT: Final = HttpEndpoint
OUTCOMES: Final = {Outcome.ALLOW: ALLOWED, Outcome.DENY: DENIED, Outcome.CONFIRM: HELD, Outcome.THROTTLE: HELD}
# Decisions at these gates are about unknown callers or about no caller, or they say nothing about the caller.
UNIDENTIFIED: Final = frozenset({Gate.MALFORMED_PATH, Gate.HALTED, Gate.IDENTITY, Gate.FAILURE})
FAILED_STATUS: Final = 400  # and above
NO_GROUPS: Final[tuple[str, ...]] = ()
UNREADABLE_MEMBER: Final = b'"behavior":{"unreadable":true},'


# The issuer, the agent and the instance of a caller, and its groups that policies name.
CallerNames: TypeAlias = tuple[str, str, str, tuple[str, ...]]


class CallerTracker(Protocol):
    """Reads and learns what is known about callers, in this process or in a store that processes share. Each method may
    raise StoreError, if it needs the store."""

    def tag(self, text: str) -> int: ...
    def read(
        self, caller: Caller, group: str, tags: RequestTags, at: int, settings: ProfileSettings, settings_of: SettingsOf
    ) -> CallerSnapshot: ...
    def peek(
        self, caller: Caller, group: str, settings: ProfileSettings, tags: RequestTags, at: int
    ) -> CallerSnapshot: ...
    def charge(self, reading: CallerSnapshot, outcome: int, settings_of: SettingsOf) -> CallerCharge: ...
    def note(self, reading: CallerSnapshot, charge: CallerCharge) -> bool: ...
    def finish(self, reading: CallerSnapshot, charge: CallerCharge, decision: str | None) -> int: ...
    def report(self, decision: str, failed: bool) -> bool: ...


class BehaviorReader:
    """Reads what `tracker` knows about the callers of one policy, and lets it learn from decisions. `logs` says whether
    decisions are logged, and `needs_finish` whether `finish` does anything."""

    def __init__(
        self,
        kernel: k.Kernel,
        patterns: EndpointPatterns,
        program: PolicyProgram,
        tracker: CallerTracker,
        *,
        logs: bool,
    ) -> None:
        self._logs = logs
        self.tracker, self._program, self._patterns = tracker, program, patterns
        self.classes, self._issuers = CallerClasses(kernel), frozenset(kernel.issuers)
        self.reads_payloads = "novelty" in learned_fact_names(kernel)
        self._identified: dict[CallerNames, IdentifiedCaller] = {}
        self._latest_of: dict[str, IdentifiedCaller] = {}  # of each agent, the latest of these callers
        self.settings_of: SettingsOf = self.classes.settings_of  # the settings of a class
        # The learner of this process, if there is one: compiled code calls its methods directly.
        learner = getattr(tracker, "learner", None)
        self._learner: LocalLearner | None = learner if isinstance(learner, LocalLearner) else None
        self.needs_finish = logs or self._learner is None
        # Tags by the declared pattern, for requests from which only the endpoint is learned.
        self._plain_tags: dict[str, RequestTags] = {}

    # ── Before a decision ─────────────────────────────────────────────────────────────────────

    def read(
        self, endpoint: Endpoint, facts: Mapping[str, object], moment: int
    ) -> tuple[CallerSnapshot, LearnedFacts] | None:
        """Read the behavior of the caller of a request at a time in nanoseconds, and return it with the learned facts;
        None without a caller. Raises StoreError."""
        found = self.identify(facts)
        if found is None:
            return None
        profile, learner = found.profile, self._learner
        tags, at = self.tags_of(endpoint, facts, profile), event_time(moment)
        if learner is None:
            read = self.tracker.read(found.caller, found.group, tags, at, profile.settings, self.settings_of)
            return read, read.to_facts()
        reading = learner.read(found.caller, found.group, tags, at, profile.settings, self.settings_of, found.known)
        found.known = reading.known
        return reading, reading.to_facts()

    def peek(self, endpoint: Endpoint, facts: Mapping[str, object], moment: int) -> CallerSnapshot | None:
        """Read the behavior of the caller of a request that consumes nothing: nothing is learned from the request.
        Raises StoreError."""
        found = self.identify(facts)
        if found is None:
            return None
        tags, settings = self.tags_of(endpoint, facts, found.profile), found.profile.settings
        return self.tracker.peek(found.caller, found.group, settings, tags, event_time(moment))

    def identify(self, facts: Mapping[str, object]) -> IdentifiedCaller | None:
        """Return the caller of a request with these facts, its class and its profile. Nothing is learned about users
        without an agent. Agents without an issuer, as in policies without issuers, have the issuer `""`."""
        agent = (facts if isinstance(facts, dict) else dict(facts)).get("agent")  # compiled code searches a dict only
        if type(agent) is not dict:
            return None
        name, issuer, instance = agent.get("id"), agent.get("issuer"), agent.get("instance")
        if type(name) is not str:
            return None
        if type(issuer) is not str:
            issuer = credential_issuer(facts)
        if type(instance) is not str:
            instance = ""
        named = self.classes.named_among(agent.get("groups")) if self.classes.names_groups else NO_GROUPS
        found = self._latest_of.get(name)  # most agents have one instance
        if found is None or not found.has_names(issuer, instance, named):
            if self._issuers and issuer not in self._issuers:
                return None
            found = self._find(issuer, name, instance, named)
        fact = found.profile.version
        if fact is None:
            return found
        caller, text = found.caller, text_at(facts, fact)
        version = "" if text is None else f"{self._tag(text):08x}"
        version_of = Caller(caller.issuer, caller.agent, caller.instance, version)
        return IdentifiedCaller(version_of, found.group, found.profile, found.names)

    def _find(self, issuer: str, name: str, instance: str, named: tuple[str, ...]) -> IdentifiedCaller:
        """Return the caller with these names, its class and its profile."""
        key = issuer, name, instance, named
        found = self._identified.get(key)
        if found is None:
            caller = name_caller(issuer, name, instance)
            group, profile = self.classes.find(caller.agent, named)
            found = IdentifiedCaller(caller, group, profile, key)
            if max(len(issuer), len(name), len(instance)) > MAX_NAME_CHARACTERS:
                return found
            if len(self._identified) >= MAX_IDENTIFIED:
                self._identified.clear()
                self._latest_of.clear()
            self._identified[key] = found
        self._latest_of[name] = found
        return found

    def tags_of(self, endpoint: Endpoint, facts: Mapping[str, object], profile: CallerProfile) -> RequestTags:
        """Return the tags of what is learned from a request. The structure of its payload is computed only if a rule
        reads `behavior.novelty`. Raises StoreError."""
        pattern = self.pattern_of(endpoint)
        if self._learner is not None and profile.learns_endpoints_only and not self.reads_payloads:
            known = self._plain_tags.get(pattern)
            if known is None:
                known = self._plain_tags[pattern] = RequestTags(self._tag(pattern))
            return known
        run = NO_RUN if profile.run_key is None else self.run_of(facts, profile)
        letter = self.letter_of(endpoint, profile) if profile.steps else NO_LETTER
        shape = structure_tag(self._tag, pattern, facts) if self.reads_payloads else NO_SHAPE
        return RequestTags(self._tag(pattern), run, shape, letter)

    def _tag(self, text: str) -> int:
        """Return the tag of a text. Raises StoreError."""
        learner = self._learner
        return self.tracker.tag(text) if learner is None else learner.tag(text)

    def letter_of(self, endpoint: Endpoint, profile: CallerProfile) -> int:
        """Return the steps of the declared order of calls that the endpoint matches, as a bit mask."""
        if not profile.steps or type(endpoint) is MalformedEndpoint:
            return NO_LETTER
        patterns = self.patterns_of(endpoint)  # the steps depend only on the patterns that match
        found = profile.letters.get(patterns)
        if found is None:
            if len(profile.letters) >= MAX_LETTERS:
                profile.letters.clear()
            found = profile.letters[patterns] = letter_at(endpoint, profile.steps)
        return found

    def patterns_of(self, endpoint: Endpoint) -> tuple[int, ...]:
        """Return the numbers of the declared patterns that match an endpoint."""
        return self._program.rules_at_again(endpoint).patterns

    def run_of(self, facts: Mapping[str, object], profile: CallerProfile) -> int:
        """Return the tag of the run's key, or NO_RUN if the facts of the request have no run key."""
        key = None if profile.run_key is None else text_at(facts, profile.run_key)
        return NO_RUN if key is None else self._tag(key)

    def pattern_of(self, endpoint: Endpoint) -> str:
        """Return the declared pattern of an endpoint; empty if no pattern matches."""
        if type(endpoint) is HTTP_ENDPOINT:
            rules = self._program.rules_at(endpoint)
            known = rules.pattern_names.get(endpoint.method)
            return known or self._patterns.find(endpoint, rules) or ""
        if type(endpoint) is ToolEndpoint:
            return self._patterns.find(endpoint, self._program.rules_at(endpoint)) or ""
        return (self._patterns.find_action(endpoint) or "") if type(endpoint) is ActionEndpoint else ""

    # ── After a decision ──────────────────────────────────────────────────────────────────────

    def add_charge(self, reading: CallerSnapshot, gate: Gate | None, outcome: Outcome, effects: Effects) -> Effects:
        """Return the effects of a decision with this gate and outcome, with what its commit changes. The effects
        themselves are changed, because a copy takes longer."""
        charge = self.charge(reading, gate, outcome)
        if charge is None:
            return effects
        if effects is NO_EFFECTS:  # which all decisions without effects share
            return Effects(behavior=charge)
        effects.behavior = charge
        return effects

    def charge(self, reading: CallerSnapshot, gate: Gate | None, outcome: Outcome) -> CallerCharge | None:
        """Return what the commit of a decision with this gate and outcome changes; None if nothing is learned from
        it."""
        if gate is not None and gate in UNIDENTIFIED:
            return None
        number = ALLOWED if outcome is ALLOW else OUTCOMES[outcome]  # the hash of an outcome takes longer
        learner = self._learner
        if learner is not None:
            return learner.charge(reading, number, self.settings_of)
        return self.tracker.charge(reading, number, self.settings_of)

    def note(self, reading: CallerSnapshot, charge: CallerCharge) -> bool:
        """Take the answer of the store from a commit that changed nothing. Return whether learned facts can be read."""
        return self.tracker.note(reading, charge)

    def finish(
        self, reading: CallerSnapshot | None, charge: CallerCharge | None, decision: Decision, key: str | None = None
    ) -> bytes:
        """Finish a decision after its commit; return the member of its log line. `reading` is None if learned facts
        could not be read. `key` is the key of the decision in the store, if it is known."""
        number = 0
        if reading is not None and charge is not None:
            if isinstance(charge, LocalSnapshot):
                number = charge.number
            else:
                reportable = (key or outcome_key(decision.id)) if decision.answer.outcome is Outcome.ALLOW else None
                number = self.tracker.finish(reading, charge, reportable)
        if not self._logs:
            return b""
        return self.encode(reading, number, clamped=charge is not None and has_clamp(decision))

    def encode(self, reading: CallerSnapshot | None, number: int = 0, *, clamped: bool = False) -> bytes:
        """Return the member of a log line; `number` is the number of the event that was learned."""
        if not self._logs:
            return b""
        return UNREADABLE_MEMBER if reading is None else encode_reading(reading, number, clamped=clamped)

    def learn(self, reading: CallerSnapshot, decision: Decision) -> None:
        """Learn from a final decision that no store commits."""
        charge = self.charge(reading, decision.gate, decision.outcome)
        if isinstance(charge, LocalSnapshot):
            charge.learn(outcome_key(decision.id), True, has_clamp(decision))

    def report(self, decision: str, status: int | None) -> bool:
        """Learn whether the request of a decision failed, from its HTTP status. Return whether this is the first report
        about the decision of a known caller."""
        return self.tracker.report(outcome_key(decision), status is not None and status >= FAILED_STATUS)


def has_clamp(decision: Decision) -> bool:
    """Return whether a clamp acted on the request."""
    for standing in decision.standings:  # a generator takes longer
        if (standing.factor if isinstance(standing, RateState) else standing[1].base) < 1.0:
            return True
    return False


def credential_issuer(facts: Mapping[str, object]) -> str:
    credential: Any = facts.get("credential")
    issuer = credential.get("issuer") if credential.__class__ is dict else None
    return issuer if issuer.__class__ is str else ""


def text_at(facts: Mapping[str, object], fact: k.Fact) -> str | None:
    """Return a fact of a request if it is a text."""
    found = fact_at(facts, fact.path)
    return found if isinstance(found, str) else None


# ── Classes ───────────────────────────────────────────────────────────────────────────────────


class CallerProfile:
    """The run key, the version, the settings and the distinct steps of the callers of a class. `letters` are letters by
    the patterns that match a request. `learns_endpoints_only` is true if neither runs nor steps depend on the facts of
    a request."""

    __slots__ = ("learns_endpoints_only", "letters", "run_key", "settings", "steps", "version")

    def __init__(
        self,
        settings: ProfileSettings,
        run_key: k.Fact | None,
        version: k.Fact | None,
        steps: tuple[k.CallStep, ...] = (),
    ) -> None:
        self.settings, self.run_key, self.version, self.steps = settings, run_key, version, steps
        self.learns_endpoints_only = run_key is None and not steps
        self.letters: dict[tuple[int, ...], int] = {}


class IdentifiedCaller:
    """A caller, its class and its profile, with the names in the request by which it was found. `known` is what the
    state of this process keeps about the caller, once it was read."""

    __slots__ = ("caller", "group", "known", "names", "profile")

    def __init__(self, caller: Caller, group: str, profile: CallerProfile, names: CallerNames) -> None:
        self.caller = caller
        self.group = group
        self.profile = profile
        self.names = names
        self.known: CallerRow | None = None

    def has_names(self, issuer: str, instance: str, named: tuple[str, ...]) -> bool:
        """Return whether the caller has this issuer, this instance and these groups; its name is not compared."""
        names = self.names
        return names[0] == issuer and names[2] == instance and (names[3] is named or names[3] == named)


class CallerClasses:
    """The classes of callers in a policy. Callers with the same profile are one class, and so are callers without a
    profile that the same agent block matches. An exact name comes before a pattern, a longer pattern before a shorter
    one, and a group last."""

    def __init__(self, kernel: k.Kernel) -> None:
        names = learned_fact_names(kernel)
        sequences, orders = "deviation" in names, "sequence" in names
        groups = reads_groups(kernel)
        self._profiles = {
            f"profile {each.name}": caller_profile(each, sequences, orders, groups) for each in kernel.profiles
        }
        self._without = CallerProfile(ProfileSettings(sequences=sequences, groups=groups), None, None)
        self._heads = HeadIndex((f"profile {profile.name}", profile.agents) for profile in kernel.profiles)
        self._blocks = HeadIndex((block.label, block.who) for block in kernel.agents)
        self._groups = self._heads.groups | self._blocks.groups  # the groups that the policies name
        self.names_groups = bool(self._groups)
        self._known: dict[tuple[str, tuple[str, ...]], tuple[str, CallerProfile]] = {}

    def named_among(self, groups: object) -> tuple[str, ...]:
        """Return the groups of a caller that the policies name."""
        if groups.__class__ is not tuple:
            return ()
        return tuple([one for one in groups if one.__class__ is str and one in self._groups])

    def find(self, name: str, named: tuple[str, ...] = ()) -> tuple[str, CallerProfile]:
        """Return the class of a caller, and its profile; `named` are the groups of `named_among`."""
        key = name, named
        found = self._known.get(key)
        if found is None:
            group = self._heads.find(name, named) or self._blocks.find(name, named) or ""
            found = group, self._profiles.get(group, self._without)
            if len(name) <= MAX_NAME_CHARACTERS:
                if len(self._known) >= MAX_GROUPS:
                    self._known.clear()
                self._known[key] = found
        return found

    def profile_of(self, group: str) -> CallerProfile:
        """Return the profile of a class."""
        return self._profiles.get(group, self._without)

    def settings_of(self, group: str) -> ProfileSettings:
        """Return the settings of a class."""
        return self.profile_of(group).settings


class HeadIndex:
    """Finds which of several heads, such as `agent "report-*"`, names an agent best."""

    def __init__(self, heads: Iterable[tuple[str, object]]) -> None:
        self._names: dict[str, str] = {}
        self._groups: dict[str, str] = {}
        globs: list[tuple[Glob, str]] = []
        for label, who in heads:
            match who:
                case k.ExactName(name):
                    self._names.setdefault(name, label)
                case k.NamePattern(glob):
                    globs.append((Glob(glob), label))
                case k.InGroup(group):
                    self._groups.setdefault(group, label)
        self.groups = frozenset(self._groups)
        self._globs = sorted(globs, key=lambda one: (-len(one[0].pattern), one[0].pattern))

    def find(self, name: str, groups: Iterable[str]) -> str | None:
        """Return the label of the head, or None."""
        found = self._names.get(name)
        if found is None:
            found = next((label for glob, label in self._globs if glob.matches(name)), None)
        if found is None:
            found = next((self._groups[group] for group in sorted(groups) if group in self._groups), None)
        return found


def caller_profile(profile: k.Profile, sequences: bool, orders: bool, groups: bool) -> CallerProfile:
    """Return the profile of callers. `sequences` says whether sequences are learned, `orders` whether the declared
    orders of calls are followed, and `groups` whether groups of callers are learned."""
    settings = ProfileSettings(
        profile.name, run_idle=profile.run_idle // MILLISECOND, learn_days=profile.learn // DAY,
        ready_runs=profile.ready_runs, ready_days=profile.ready_days, burst_days=profile.burst_days,
        sequences=sequences, automaton=order_automaton(profile.order) if orders and profile.order else None,
        groups=groups,
    )  # fmt: skip
    key, version = profile.run_key, profile.version
    return CallerProfile(
        settings, key if isinstance(key, k.Fact) else None, version if isinstance(version, k.Fact) else None,
        distinct_steps(profile.order) if orders else (),
    )  # fmt: skip


def letter_at(endpoint: Endpoint, steps: Sequence[k.CallStep]) -> int:
    """Return the steps that an endpoint matches, as a bit mask."""
    return sum(
        1 << number
        for number, step in enumerate(steps)
        if any(match_pattern(pattern, endpoint) is not None for pattern in step.patterns)
    )


# ── The log ───────────────────────────────────────────────────────────────────────────────────


def encode_reading(reading: CallerSnapshot, number: int, *, clamped: bool) -> bytes:
    """Return the member of a log line: what was read, and the number of the event that was learned (0: none)."""
    found, tags = reading.facts, reading.tags
    members: dict[str, object] = {
        "class": reading.group,
        "model": reading.model.digest,
        "read": reading.serial,
        "event": number,
        **({"instance": reading.caller.instance} if reading.caller.instance else {}),
        **({"version": reading.caller.version} if reading.caller.version else {}),
        **({"run": tags.run} if tags.run else {}),
        **({"shape": tags.shape} if tags.shape else {}),
        **({"letter": tags.letter} if tags.letter else {}),
        **({"clamped": True} if clamped else {}),
        **({"released": True} if reading.settings.released else {}),
        **found.to_facts(),
    }
    if reading.settings.automaton is None:
        del members["sequence"], members["step"]
    return b'"behavior":%b,' % ENCODE(members)
