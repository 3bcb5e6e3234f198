"""The `policy` fixture, with which Python tests decide requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from policyengine.engine import Engine
from policyengine.engine.question import QuestionLike
from policyengine.runtime.decision import Decision
from policyengine.testcases.scenario import DEFAULT_TIME
from policyengine.testing.report import reason_lines

PRINCIPAL_ROOTS = ("agent", "user")  # principals that callers may give as an id alone


class NoPoliciesError(Exception):
    """The error for a fixture without policies."""


@dataclass(frozen=True)
class AllowResult:
    """Whether a request is allowed. A failed `assert` shows the decision and its reasons."""

    decision: Decision

    def __bool__(self) -> bool:
        return self.decision.allowed

    def __repr__(self) -> str:
        return "\n".join([str(self.decision.outcome), *(f"  {reason}" for reason in reason_lines(self.decision))])


class Policy:
    """Policies with an engine of their own. `paths` are files and folders of policies, or one bundle; `entities` is an
    entity file. The clock is fixed at `now`, by default the beginning of 2026 (UTC), as in policy tests. The first use
    may raise the errors of `Engine.load`.
    """

    def __init__(
        self, *paths: Path | str, entities: Path | str | None = None, now: datetime = DEFAULT_TIME, base: Path = Path()
    ) -> None:
        self.paths = tuple(base / path for path in paths)
        self.entities = None if entities is None else base / entities
        self.now = now
        self.base = base

    def __call__(self, *paths: Path | str, entities: Path | str | None = None, now: datetime | None = None) -> Policy:
        """Return a fixture with other policies, entities or time; omitted arguments stay the same."""
        others = paths or self.paths
        rows = self.entities if entities is None else entities
        return Policy(*others, entities=rows, now=self.now if now is None else now, base=self.base)

    @cached_property
    def engine(self) -> Engine:
        if not self.paths:
            raise NoPoliciesError('no policies: call `policy("payments/")`, mark the test, or set `policy_paths`')
        first, *others = self.paths
        if first.suffix == ".policybundle" and not others:
            return Engine.from_bundle(first, entities=self.entities, clock=lambda: self.now)
        return Engine.load(*self.paths, entities=self.entities, clock=lambda: self.now)

    def decide(self, asked: QuestionLike | None = None, /, **facts: object) -> Decision:
        """Decide a request and commit its effects. `asked` is a question as for Engine.decide, or an endpoint as in
        policy tests: `GET /v1/invoices/42`, `TOOL mail/send`, `ACTION view invoice "42"`; `facts` are its other
        members. Agent and user may be given by id. Raises RequestError if the question is invalid."""
        if isinstance(asked, str) and not asked.lstrip().startswith("{"):
            return self.engine.decide({**parse_endpoint(asked), **merge_facts(facts, parse_endpoint(asked))})
        if isinstance(asked, Mapping) or asked is None:
            return self.engine.decide({**(asked or {}), **merge_facts(facts, asked or {})})
        return self.engine.decide(asked)

    def allows(self, asked: QuestionLike | None = None, /, **facts: object) -> AllowResult:
        """Decide a request as `decide` does, and return whether it is allowed: `assert policy.allows("GET /health")`,
        `assert not policy.allows(…)`.
        """
        return AllowResult(self.decide(asked, **facts))


def merge_facts(facts: Mapping[str, object], asked: Mapping[str, object]) -> dict[str, object]:
    """Merge the given facts with the facts of an endpoint; members of the same root are combined."""
    found: dict[str, object] = {}
    for root, value in facts.items():
        known = {"id": value} if root in PRINCIPAL_ROOTS and isinstance(value, str) else value
        of_endpoint = asked.get(root)
        both = isinstance(known, Mapping) and isinstance(of_endpoint, Mapping)
        found[root] = {**known, **of_endpoint} if both else known  # type: ignore[dict-item]  # both are mappings
    return found


def parse_endpoint(text: str) -> dict[str, Mapping[str, object]]:
    """Parse `GET /v1/invoices/42`, `TOOL mail/send` or `ACTION view invoice "42"` into request members."""
    word, _, rest = text.strip().partition(" ")
    if word == "TOOL":
        server, slash, name = rest.strip().partition("/")
        return {"tool": {"server": server, "name": name} if slash else {"name": server}}
    if word == "ACTION":
        verb, _, thing = rest.strip().partition(" ")
        type_, _, id_ = thing.strip().partition(" ")
        named = {"id": id_.strip().strip('"')} if id_.strip() else {}
        return {"action": {"name": verb}, "resource": {"type": type_, **named}}
    return {"request": {"method": word, "path": rest.strip()}}
