"""Writes suggested orders as a policy: `profile` blocks with their support in comments, and tests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from policyengine import kernel as k
from policyengine.analysis.call_orders.run_collector import EndpointTable, Principal
from policyengine.analysis.call_orders.run_rules import TASK
from policyengine.analysis.call_orders.suggestion import MissingOrder, OrderSuggestion, RunException
from policyengine.check import CheckResult, check
from policyengine.checker.names.symbols import MAIN_PACKAGE
from policyengine.importers.sanitize import quoted_comment
from policyengine.kernel.learned_facts import learned_facts
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.format_values import quote_string
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse
from policyengine.time_formats import format_duration, parse_duration

FILE: Final = "suggested.policy"
PROFILE: Final = "profile "
BLOCK: Final = "agent "
ANY_AGENT: Final = 'agent "*"'
WORDS: Final = re.compile(r"[^A-Za-z0-9]+")
CREDENTIAL_KIND: Final = re.compile(r"[a-z_]+")
SIMPLE_PATH: Final = re.compile(r"(?:/[A-Za-z0-9][A-Za-z0-9_-]*)+")
MAX_NAME: Final = 60
MAX_TESTED_CALLS: Final = 40


@dataclass(frozen=True, slots=True)
class SuggestedProfile:
    """A profile with a suggested order. `items` are its other items; `replaces` is the place of the profile of the
    policies that it replaces, and `refusal` is the outcome that its tests expect of a call that leaves the order; None
    without tests. `is_guess` says whether the head only follows from the names of the agents."""

    suggestion: OrderSuggestion
    name: str
    head: str
    items: tuple[str, ...]
    replaces: str | None = None
    refusal: str | None = None
    is_guess: bool = False

    def lines(self) -> Iterator[str]:
        found = self.suggestion
        yield ""
        yield (
            f"# {found.accepted:,} of {found.runs:,} runs ({100 * found.support:.1f} %), of "
            f"{found.followers:,} of {found.agents:,} agents, follow this order;"
        )
        yield f"# {100 * found.selectivity:.0f} % of runs with the same calls in another order would leave it."
        if self.replaces is not None:
            yield f"# Use it in place of the profile at {quoted_comment(self.replaces)}."
        if self.is_guess:
            yield "# Check that no other agents have such names: the agents are named by the beginning of their names."
        if found.exceptions:
            yield "# The most frequent runs that leave it:"
            yield from (f"# - {describe_exception(one)}" for one in found.exceptions)
        yield f"profile {quote_string(self.name)} for {self.head} {{"
        yield f"expect {found.words}"
        yield from self.items
        yield "}"


def describe_exception(found: RunException) -> str:
    """Return runs that leave the order as a comment."""
    shown = " -> ".join(f"{name or 'another'}{f' × {times}' if times > 1 else ''}" for name, times in found.calls)
    further = found.length - sum(times for _, times in found.calls)
    more = f" and {further:,} more" if further else ""
    agents = ", ".join(filter(None, map(quoted_comment, found.agents)))
    others = f" and {found.agents_in_all - len(found.agents):,} more" if found.agents_in_all > len(found.agents) else ""
    example = f", such as {quoted_comment(found.examples[0])}" if found.examples else ""
    runs = f"{found.runs:,} run{'' if found.runs == 1 else 's'} of {agents}{others}"
    return f"{runs}: {quoted_comment(shown)}{more}, from call {found.follows + 1:,} on{example}"


@dataclass(slots=True)
class ProfileWriter:
    """Writes the profiles for the policies of a check, or for no policies. Each profile is checked together with the
    policies and the profiles before it."""

    modules: Sequence[ast.Module]
    checked: CheckResult
    endpoints: EndpointTable
    credentials: Mapping[Principal, Mapping[str, object]]

    @property
    def kernel(self) -> k.Kernel:
        assert self.checked.kernel is not None
        return self.checked.kernel

    # ── Profiles ──────────────────────────────────────────────────────────────────────────────

    def profiles(self, suggestions: Iterable[OrderSuggestion]) -> tuple[list[SuggestedProfile], list[MissingOrder]]:
        """Return the profiles, and the classes for which the policies allow no profile."""
        found: list[SuggestedProfile] = []
        missing: list[MissingOrder] = []
        for suggestion in suggestions:
            problem = "the policies allow no profile for it"
            for profile in self._candidates(suggestion, {one.name for one in found}):
                errors = self.errors([*found, profile])
                if not errors:
                    found.append(profile)
                    break
                problem = f"the profile would be an error: {errors[0]}"
            else:
                missing.append(MissingOrder(suggestion.group, suggestion.runs, problem))
        return found, missing

    def _candidates(self, suggestion: OrderSuggestion, taken: set[str]) -> Iterator[SuggestedProfile]:
        """Yield profiles for a class, the best first."""
        rule = tuple(filter(None, [suggestion.rule.words()]))
        declared = self._declared(suggestion.group)
        if declared is not None:
            package, profile = declared
            if package == self.kernel.package:
                items = tuple(one.span.text for one in profile.items if not isinstance(one, ast.ProfileSteps))
                has_rule = any(isinstance(one, ast.ProfileRun) for one in profile.items)
                yield SuggestedProfile(
                    suggestion, profile.name.value, profile.agent.span.text, items if has_rule else (*items, *rule),
                    profile.span.at,
                )  # fmt: skip
            return
        names = taken | {profile.name for profile in self.kernel.profiles}
        for head, is_guess in self._heads(suggestion):
            logged = suggestion.group.startswith(PROFILE)  # the log names a profile, but no policies declare it
            words = suggestion.group.removeprefix(PROFILE) if logged else head.partition('"')[2]
            yield SuggestedProfile(suggestion, fresh_name(words, names), head, rule, is_guess=is_guess)

    def _declared(self, group: str) -> tuple[str, ast.ProfileDecl] | None:
        """Return the profile of a class with its package, or None if the policies do not declare one."""
        for package, item in self.checked.program.declarations():
            if isinstance(item, ast.ProfileDecl) and f"{PROFILE}{item.name.value}" == group:
                return package, item
        return None

    def _heads(self, suggestion: OrderSuggestion) -> Iterator[tuple[str, bool]]:
        """Yield texts that name the agents of a class, and whether they are guesses from the names of the agents."""
        if suggestion.group.startswith(BLOCK):
            head = suggestion.group
            head = head.removeprefix(BLOCK) if head.startswith(f'{BLOCK}group "') else head
            if is_head(head):
                yield head, False
        names = suggestion.names
        if len(set(names)) == 1:
            yield f"agent {quote_string(names[0])}", True
        start = common_start(names).partition("*")[0]
        if start:
            yield f"agent {quote_string(f'{start}*')}", True
        yield ANY_AGENT, True

    # ── Text ──────────────────────────────────────────────────────────────────────────────────

    def text(self, profiles: Sequence[SuggestedProfile], missing: Sequence[MissingOrder] = ()) -> str:
        """Return the formatted policy."""
        lines = ["language 1"] if profiles else []
        if profiles and self.kernel.package != MAIN_PACKAGE:
            lines.append(f"package {self.kernel.package}")
        for profile in profiles:
            lines += profile.lines()
            if profile.refusal is not None:
                lines += self._test_lines(profile, profile.refusal)
        if profiles and not self.refusals:
            lines += ["", "# To see which runs leave the order, without denying them:"]
            lines += ['# guard "order" { warn when not behavior.sequence }']
        for order in missing:
            lines += ["", f"# No order for {quoted_comment(order.group)}: {plain_comment(order.why)}."]
        if not lines:
            lines = ["# No order: the traffic has no allowed calls of agents."]
        text = "\n".join(lines).strip() + "\n"
        return format_module(Source(FILE, text)) if profiles else text

    def errors(self, profiles: Sequence[SuggestedProfile]) -> list[str]:
        """Return the errors of the policies with these profiles."""
        return [one.message for one in self.check(profiles).diagnostics if one.is_error]

    def check(self, profiles: Sequence[SuggestedProfile]) -> CheckResult:
        """Check the policies with these profiles, in place of those that they replace."""
        module, problems = parse(Source(FILE, self.text(profiles)))
        replaced = {one.name for one in profiles if one.replaces is not None}
        others = [replace(one, declarations=tuple(without_profiles(one, replaced))) for one in self.modules]
        return check([*others, *([module] if module else [])], problems)

    # ── Tests ─────────────────────────────────────────────────────────────────────────────────

    @property
    def refusals(self) -> tuple[str, ...]:
        """Return what tests may expect of a call that leaves an order: the effects of the guards that read
        `behavior.sequence`."""
        found: dict[str, None] = {}
        for guard in self.kernel.guards:
            for effect in guard.effects:
                if any(fact.path[1] == "sequence" for fact in learned_facts((effect.condition,))):
                    found[refusal_words(guard, effect)] = None
        return tuple(found)

    def _test_lines(self, profile: SuggestedProfile, refusal: str) -> Iterator[str]:
        samples = profile.suggestion.samples
        accepted = [self._call(number) for number in samples.accepted[:MAX_TESTED_CALLS]]
        rejected = [self._call(number) for number in samples.rejected]
        setup = list(self._setup(profile))
        yield ""
        yield f"test {quote_string(f'runs of {profile.name} follow the order')} {{"
        yield from setup
        yield from (f"{call} => allow" for call in accepted)
        yield "}"
        yield f"test {quote_string(f'a thief does not know the order of {profile.name}')} {{"
        yield from setup
        yield from (f"{call} => allow" for call in rejected[:-1])
        yield f"{rejected[-1]} => {refusal}"
        yield "}"

    def _setup(self, profile: SuggestedProfile) -> Iterator[str]:
        issuer, agent = profile.suggestion.samples.agent
        yield f"given agent {quote_string(agent)}{f' from {issuer}' if issuer in self.kernel.issuers else ''}"
        members = list(credential_members(self.credentials.get((issuer, agent), {})))
        if members:
            yield f"given credential {{ {', '.join(members)} }}"
        if profile.suggestion.rule.key == TASK:
            yield 'given task { id: "run" }'

    def _call(self, number: int) -> str:
        """Return a call of a test."""
        sample: Endpoint | None = self.endpoints.samples[number]
        match sample:
            case HttpEndpoint(method, path):
                return f"{method} {path if SIMPLE_PATH.fullmatch(path) else quote_string(path)}"
            case ToolEndpoint():
                return f"TOOL {quote_string(sample.qualified)}"
            case ActionEndpoint(verb, type_):
                return f'ACTION {verb} {type_} "1"'
            case _:
                return "GET /"

    def with_refusal(self, profile: SuggestedProfile, refusal: str) -> SuggestedProfile | None:
        """Return a profile with tests; None if there are no calls for the tests."""
        samples = profile.suggestion.samples
        return replace(profile, refusal=refusal) if samples.accepted and samples.rejected else None


def refusal_words(guard: k.Guard, effect: k.Effect) -> str:
    match effect:
        case k.Deny():
            return f"deny by {quote_string(guard.name)}"
        case k.Confirm():
            return f"confirm by {quote_string(guard.name)}"
        case k.ObligationEffect(kind=kind):
            return f'allow with {{ obligation: "{kind}*" }}'


def credential_members(facts: Mapping[str, object]) -> Iterator[str]:
    """Yield the members of a credential on which grants usually depend."""
    kind, lifetime, scopes = facts.get("kind"), facts.get("lifetime"), facts.get("scopes")
    if isinstance(kind, str) and CREDENTIAL_KIND.fullmatch(kind):
        yield f"kind: {kind}"
    period = lifetime if isinstance(lifetime, timedelta) else parse_duration(str(lifetime))
    if period is not None:
        yield f"lifetime: {format_duration(period)}"
    if isinstance(scopes, list | tuple) and all(isinstance(scope, str) for scope in scopes):
        yield f"scopes: [{', '.join(map(quote_string, scopes))}]"
    if facts.get("bound") is True:
        yield "bound: true"


def without_profiles(module: ast.Module, names: set[str]) -> Iterator[ast.Declaration | ast.Export]:
    for item in module.declarations:
        declared = item.declaration if isinstance(item, ast.Export) else item
        if not (isinstance(declared, ast.ProfileDecl) and declared.name.value in names):
            yield item


def is_head(text: str) -> bool:
    """Return whether a text only names agents. A log may contain any text as the name of a class."""
    module, problems = parse(Source(FILE, f'language 1\nprofile "p" for {text} {{ run within 5m }}\n'))
    if module is None or problems or len(module.declarations) != 1:
        return False
    declared = module.declarations[0]
    return isinstance(declared, ast.ProfileDecl) and declared.agent.span.text == text


def common_start(names: Sequence[str]) -> str:
    """Return the text with which all names begin."""
    first, last = min(names), max(names)
    return first[: next((place for place, char in enumerate(first) if last[place : place + 1] != char), len(first))]


def fresh_name(text: str, taken: set[str]) -> str:
    """Return a new name for a profile, from the words of a text."""
    words = WORDS.sub(" ", text).strip()[:MAX_NAME].strip() or "suggested"
    name, number = words, 1
    while name in taken:
        number += 1
        name = f"{words} {number}"
    return name


def plain_comment(text: str) -> str:
    """Return one line of printable text."""
    return "".join(char if char.isprintable() else " " for char in text)
