"""Writes one recorded decision as a request of a test, with its facts, entity rows and time in the test language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from unicodedata import is_normalized

from policyengine import kernel as k
from policyengine.audit import DecisionRecord, ReplayResult
from policyengine.audit.encoder import to_raw_request
from policyengine.check import CheckResult
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.sizes import AnySizes
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Gate
from policyengine.runtime.entities import EntityData
from policyengine.runtime.format_values import quote_string
from policyengine.runtime.values import Invalid
from policyengine.source import Source, Span
from policyengine.testcases.fact_catalogue import CatalogueAttribute, CatalogueFact, FactCatalogue, FactGroup
from policyengine.testcases.fixtures import has_type
from policyengine.testing.adhoc import AdhocTestReader
from policyengine.testing.properties.render_test import (
    BARE_PATH,
    BARE_TOOL_NAME,
    TestNameWriter,
    path_text,
    time_text,
)
from policyengine.time_formats import format_duration
from policyengine.typesystem import EntityRef, ListType, SetType, Type
from policyengine.typesystem import RecordType as RecordType

NOWHERE = Span(Source("record", ""), 0, 0)
METHOD = re.compile(r"[A-Z]+")
RESERVED_WORDS = frozenset({"ACTION", "ANY", "INPUT", "OUTPUT", "RESULT", "TOOL"})  # keywords of the test language
VERB = re.compile(r"[a-z_][A-Za-z0-9_]*")
OPTIONAL_ROOTS = ("request", "tool", "body", "args", "context", "task")
ENDPOINT_FACTS = frozenset({("request", "method"), ("request", "path"), ("tool", "name"), ("tool", "server")})
NOT_FACTS = ("action", "resource", "chain", "approvals", "entities", "pending", "options")
ATTESTER_MEMBERS = ("model", "model_hash", "environment")
SECOND, MILLISECOND = timedelta(seconds=1), timedelta(milliseconds=1)


class InexpressibleError(Exception):
    """The error for a decision that depends on something that the test language cannot express."""


@dataclass(frozen=True, slots=True)
class RecordedCase:
    """A request of a test. `facts` are names and values as text; `unsaid` are facts that cannot be expressed."""

    at: datetime
    request: str
    facts: tuple[tuple[str, str], ...]
    expected: str
    rows: tuple[tuple[EntityRef, str], ...]
    unsaid: tuple[str, ...] = ()

    def shot(self, without: frozenset[tuple[str, str]] = frozenset()) -> str:
        """Return the request as one line, without the facts in `without`."""
        pairs = ", ".join(f"{name}: {value}" for name, value in self.facts if (name, value) not in without)
        inside = f" {{ {pairs} }}" if pairs else ""
        return f"{self.clock} {self.request}{inside} => {self.expected}"

    @property
    def clock(self) -> str:
        finer = self.at - self.at.replace(microsecond=0)
        return f"at {time_text(self.at)}" + (f" after {format_duration(finer)}" if finer else "")


@dataclass(frozen=True, slots=True)
class CaseWriter:
    """Writes records for one policy. `read` are the facts that its rules read; `evaluator` decides the
    written requests.
    """

    kernel: k.Kernel
    scratch: AdhocTestReader
    spelling: TestNameWriter
    read: frozenset[tuple[str, ...]]
    evaluator: Evaluator

    @classmethod
    def of(cls, checked: CheckResult) -> CaseWriter:
        kernel = checked.kernel
        assert kernel is not None
        scratch = AdhocTestReader.of(checked, kernel.package)
        aliases = {one.package: one.alias for one in scratch.package.imports.values()}
        read = frozenset(fact.path for fact in facts_read(kernel))
        evaluator = Evaluator(kernel, EntityStore(), sizes=AnySizes())
        return cls(kernel, scratch, TestNameWriter(kernel.package, aliases, kernel), read, evaluator)

    @property
    def catalogue(self) -> FactCatalogue:
        """The facts that tests can name."""
        return self.scratch.catalogue

    def says(self, again: ReplayResult) -> Iterator[RecordedCase]:
        """Yield ways to write a record, the shortest first; later ways rely less on defaults of tests."""
        record = again.record
        second = record.time.replace(microsecond=0)
        millisecond = second + (record.time - second) // MILLISECOND * MILLISECOND
        yield self._said(again, second, lean=True)
        yield self._said(again, second, lean=False)
        if record.time != second:
            yield self._said(again, millisecond, lean=False)
            yield self._said(again, millisecond + MILLISECOND, lean=False)

    def _said(self, again: ReplayResult, at: datetime, *, lean: bool) -> RecordedCase:
        raw, unsaid = to_raw_request(again.record.question), list[str]()
        facts = [pair for root in raw if root not in NOT_FACTS for pair in self._facts(root, raw[root], unsaid, lean)]
        if not lean:
            facts += implied_facts(raw)
        chain = raw.get("chain")
        if isinstance(chain, Mapping) and chain.get("hops") is not None:
            facts.append(("chain", self._value(explicit_hops(chain["hops"]), "chain.hops", unsaid) or "[]"))
        facts += approval_facts(again, at, unsaid)
        unsaid += ["pending facts"] if "pending" in raw else []
        unsaid += ["a body that was not read"] if isinstance(raw.get("body"), Invalid) else []
        unsaid += ["obligations_supported"] if again.record.question.options.obligations_supported is not None else []
        return RecordedCase(
            at,
            self._request(raw),
            tuple(facts),
            self.expected(again.record),
            tuple(self._rows(again, unsaid)),
            tuple(unsaid),
        )

    # ── Facts ─────────────────────────────────────────────────────────────────────────────────

    def _facts(self, root: str, given: object, unsaid: list[str], lean: bool) -> Iterator[tuple[str, str]]:
        if not isinstance(given, Mapping):
            return
        if not given and root in ("agent", "user"):
            yield f"{root}.id", "absent"
        for name, value in given.items():
            if value is not None and (root, name) not in ENDPOINT_FACTS:
                yield from self._fact((root, str(name)), value, unsaid, lean)

    def _fact(self, path: tuple[str, ...], value: object, unsaid: list[str], lean: bool) -> Iterator[tuple[str, str]]:
        known, name = self.catalogue.find(path, NOWHERE), path_text(path)
        if lean and path[0] in OPTIONAL_ROOTS and not self._is_read(path):
            return
        match known:
            case FactGroup() if isinstance(value, Mapping):
                for inner, one in value.items():
                    yield from self._fact((*path, inner), one, unsaid, lean) if one is not None else ()
            case CatalogueFact(type_):
                written = self._value(prune_value(value, type_), name, unsaid)
                if written is not None:
                    yield name, written
            case None | CatalogueAttribute() | FactGroup():
                unsaid.append(name)

    def _is_read(self, path: tuple[str, ...]) -> bool:
        """Return whether a rule reads the fact, a part of it, or a value that contains it."""
        return any(path == one[: len(path)] or one == path[: len(one)] for one in self.read)

    def _value(self, value: object, name: str, unsaid: list[str]) -> str | None:
        if is_inexpressible(value):
            unsaid.append(name)
            return None
        return self.spelling.value(value)

    # ── The request ───────────────────────────────────────────────────────────────────────────

    def _request(self, raw: Mapping[str, object]) -> str:
        """Return the endpoint as text. Raises InexpressibleError."""
        match raw:
            case {"tool": Mapping() as tool}:
                name = str(tool["name"]) if tool.get("server") is None else f"{tool['server']}/{tool['name']}"
                return f"TOOL {name if BARE_TOOL_NAME.fullmatch(name) else quote_string(name)}"
            case {"action": Mapping() as action, "resource": Mapping() as resource}:
                return self._action(str(action["name"]), resource)
            case {"request": {"method": str() as method, "path": str() as path}}:
                if not METHOD.fullmatch(method) or method in RESERVED_WORDS:
                    raise InexpressibleError(f"a test cannot use the method `{method}`")
                return f"{method} {path if BARE_PATH.fullmatch(path) else quote_string(path)}"
            case _:
                raise InexpressibleError("the path is not a string")

    def _action(self, verb: str, resource: Mapping[str, object]) -> str:
        type_, id_ = str(resource["type"]), resource.get("id")
        if not VERB.fullmatch(verb):
            raise InexpressibleError(f"a test cannot name the action `{verb}`")
        if type_ not in self.kernel.entities:
            raise InexpressibleError(f"the policy declares no entity `{type_}`")
        if id_ is not None and not isinstance(id_, str):
            raise InexpressibleError("the id of the resource is not a string")
        return f"ACTION {verb} {self.spelling.entity(type_)}" + (f" {quote_string(id_)}" if id_ is not None else "")

    def expected(self, record: DecisionRecord) -> str:
        """Return the expectation, such as `deny by "tenants are islands"`: the outcome, and the first rule or gate
        among its reasons.
        """
        outcome = str(record.outcome)
        reasons = [one for one in record.decision.get("reasons", ()) if one["outcome"] == outcome]
        rules = [one["rule"] for one in reasons if one.get("rule") in self.catalogue.rules]
        if outcome == "allow":
            return outcome
        if rules:
            return f"{outcome} by {quote_string(rules[0])}"
        return f"{outcome} by {reasons[0]['gate']}" if reasons and reasons[0]["gate"] in tuple(Gate) else outcome

    # ── The directory ─────────────────────────────────────────────────────────────────────────

    def _rows(self, again: ReplayResult, unsaid: list[str]) -> Iterator[tuple[EntityRef, str]]:
        """Yield the rows that were looked up; no other row can affect the decision."""
        directory = again.record.directory
        assert directory is not None
        for ref in sorted(again.read, key=str):
            row = directory.row(ref) or next((one for one in again.record.question.entities if one.ref == ref), None)
            declared = self.kernel.entities.get(ref.type)
            if row is not None and declared is not None:
                yield ref, self._row(row, declared, unsaid)

    def _row(self, row: EntityData, declared: k.EntityType, unsaid: list[str]) -> str:
        kept: dict[str, object] = {}
        types = {one.name: one.type for one in declared.fields}
        for name, value in row.attributes.items():
            if value is None or name not in types:
                continue  # no rule can read it
            value = prune_value(value, types[name])
            if is_inexpressible(value) or not has_type(value, types[name], f"{row.ref.type}.{name}"):
                unsaid.append(f"{row.ref.type}.{name}")
            else:
                kept[name] = value
        parents = [one for one in row.parents if one.type in declared.parents]
        unsaid += [f"the membership of {row.ref} in {one}" for one in row.parents if one not in parents]
        unsaid += [f"the partial row of {row.ref}"] if row.partial else []
        record = f" {self.spelling.record(kept)}" if kept else ""
        inside = f" in {', '.join(map(self.spelling.ref, parents))}" if parents else ""
        return f"{self.spelling.ref(row.ref)}{record}{inside}"


# ── What tests take for granted ───────────────────────────────────────────────────────────────


def implied_facts(raw: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield facts that tests fill in: the issuer of a credential, and what an attester vouches for."""
    agent, credential, attestation = (raw.get(name) for name in ("agent", "credential", "attestation"))
    issued = isinstance(credential, Mapping) and credential.get("issuer") is not None
    if isinstance(agent, Mapping) and agent.get("issuer") is not None and not issued:
        yield "credential.issuer", "absent"
    if isinstance(attestation, Mapping) and attestation.get("by") is not None:
        yield from ((f"attestation.{one}", "absent") for one in ATTESTER_MEMBERS if attestation.get(one) is None)


def explicit_hops(hops: object) -> object:
    """Return hops with all members, because tests fill in the issuer of the presenter and the current time."""
    given = hops if isinstance(hops, tuple) else ()
    return tuple({"issuer": None, "issued_at": None, **hop} if isinstance(hop, Mapping) else hop for hop in given)


def approval_facts(again: ReplayResult, at: datetime, unsaid: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the approvals that match the request, with the rule to which each is bound."""
    rules = {
        effect.approval.binding: guard.guard.name
        for guard in again.seen.guards
        for effect in guard.effects
        if effect.approval is not None
    }
    found = []
    for approval in again.record.question.approvals:
        rule = rules.get(approval.binding or "")
        if rule is None or approval.id in again.record.spent:
            continue  # the approval is bound to another request, or is spent
        if approval.granted_at is None or approval.granted_at > at:
            unsaid.append(f"an approval by {approval.by} without an earlier time of grant")
            continue
        if sum(name == rule for name in rules.values()) > 1:  # an approval in a test satisfies every confirm
            unsaid.append(f"which confirmation of {quote_string(rule)} an approval is for")
        age = format_duration(at - approval.granted_at)
        vouched = "" if approval.issuer is None else f"issuer: {quote_string(approval.issuer)}, "
        found.append(f"{{ rule: {quote_string(rule)}, by: {quote_string(approval.by)}, {vouched}age: {age} }}")
    if found:
        yield "approval", found[0] if len(found) == 1 else f"[{', '.join(found)}]"


# ── Values ────────────────────────────────────────────────────────────────────────────────────


def is_inexpressible(value: object) -> bool:
    """Return whether no value in a test can equal this value."""
    match value:
        case Mapping():
            return any(map(is_inexpressible, (*value, *value.values())))
        case tuple() | list():
            return any(map(is_inexpressible, value))
        case str():
            return not is_normalized("NFC", value)
        case datetime():
            return value.utcoffset() is None or value.microsecond != 0 or not 2 <= value.year <= 9998
        case timedelta():
            return value < timedelta(0) or value % MILLISECOND != timedelta(0)
        case _:
            return isinstance(value, Invalid)


def prune_value(value: object, type_: Type | None) -> object:
    """Return the value without the members that its declared record lacks, because no rule can read them."""
    match value, type_:
        case Mapping(), RecordType():
            types = {one.name: one.type for one in type_.fields}
            return {name: prune_value(one, types[name]) for name, one in value.items() if name in types}
        case ((tuple() | list()), (SetType() | ListType())):
            return tuple(prune_value(one, type_.element) for one in value)
        case _:
            return value


def facts_read(part: object) -> Iterator[k.Fact]:
    """Yield every fact that a part of the kernel reads."""
    match part:
        case k.Fact():
            yield part
        case tuple() | frozenset():
            for item in part:
                yield from facts_read(item)
        case Mapping():
            yield from facts_read(tuple(part.values()))
        case _ if is_dataclass(part) and not isinstance(part, type):
            for member in fields(part):
                yield from facts_read(getattr(part, member.name))
        case _:
            return
