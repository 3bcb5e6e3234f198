"""Reads the facts of a decided request that every record contains: the client that sent it, the endpoint pattern, the
resource, the task and the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from policyengine import kernel as k
from policyengine.compiler.endpoint_patterns import EndpointPatterns
from policyengine.evaluator.bindings import AgreedValue, ExpressionValue, ResourceValue
from policyengine.evaluator.nodes import BoundValue
from policyengine.evaluator.program import EndpointRules, PolicyProgram
from policyengine.evaluator.state import State
from policyengine.runtime.current_caller import caller_label
from policyengine.runtime.decision import Decision, Gate
from policyengine.runtime.endpoints import ActionEndpoint, HttpEndpoint
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Entities
from policyengine.typesystem import EntityRef

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog
    from policyengine.audit.recent_decisions import DecisionSubject

RESOURCE = ("resource",)


class SubjectReader:
    """Reads the subjects of decisions of one engine for its log."""

    def __init__(
        self, program: PolicyProgram, patterns: EndpointPatterns, entities: Callable[[], Entities], log: DecisionLog
    ) -> None:
        from policyengine.audit.recent_decisions import DecisionSubject

        self._program, self._patterns, self._entities, self._log = program, patterns, entities, log
        self._subject: type[DecisionSubject] = DecisionSubject

    def read(self, request: Request, decision: Decision, moment: int) -> DecisionSubject:
        """Return the subject of a decision. A fact that cannot be read is left out, so that it prevents no decision."""
        facts, endpoint = request.facts, request.endpoint
        pattern, resource = None, None
        try:
            if type(endpoint) is ActionEndpoint:
                pattern = self._patterns.find_action(endpoint)
                id_ = member(facts, "resource", "id")
                resource = (endpoint.type, id_) if isinstance(id_, str) else None
            else:
                rules = self._program.rules_at_again(endpoint)
                pattern = self._patterns.find(endpoint, rules)
                resource = self._resource(request, rules, decision, moment)
        except Exception:
            resource = None
        return self._subject(
            decision, caller_label(), endpoint if pattern is None else pattern, resource, member(facts, "task", "id"),
            member(facts, "attestation", "model"),
        )  # fmt: skip

    def _resource(
        self, request: Request, rules: EndpointRules, decision: Decision, moment: int
    ) -> tuple[str, str] | None:
        endpoint = request.endpoint
        if rules.bindings is None or (binding := rules.bindings.get(RESOURCE)) is None:
            return None
        if type(binding) is ResourceValue and type(endpoint) is HttpEndpoint:
            capture = binding.capture
            text = capture.match(endpoint.segments[capture.index])
            return (binding.type, text) if type(text) is str else None
        if decision.gate is Gate.FAILURE:  # the decision may have taken too many steps
            return None
        if any(self._log.redacts(decision, path) for path in paths_read(binding)):
            return None
        found = binding.raw(self._state(rules, request, moment))
        return (found.type, found.id) if isinstance(found, EntityRef) else None

    def _state(self, rules: EndpointRules, request: Request, moment: int) -> State:
        state = State(self._program, rules, request, moment, self._entities(), {}, None)
        if isinstance(request.endpoint, HttpEndpoint):
            state.segments = request.endpoint.segments
        return state


def member(facts: Mapping[str, Any], root: str, name: str) -> object:
    """Return a raw fact, or None if it is absent."""
    found = facts.get(root)
    return found.get(name) if found.__class__ is dict else None


def paths_read(binding: BoundValue) -> Iterator[tuple[str, ...]]:
    """Yield the facts from which a resource is made."""
    match binding:
        case ExpressionValue():
            yield from (node.path for node in k.walk(binding.source) if isinstance(node, k.Fact))
        case AgreedValue():
            for part in binding.several:
                yield from paths_read(part)
