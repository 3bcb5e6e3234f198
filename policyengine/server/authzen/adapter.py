"""The OpenID AuthZEN Authorization API 1.0: asks the engine, and builds the answers.

An evaluation spends nothing, so that the same question gets the same answer, unless `context.consume` is true, or the
settings make the caller's evaluations spend by default. An allow that would have to spend becomes a denial if neither
the question nor the settings say whether to spend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import msgspec
from starlette.responses import Response

from policyengine.diagnostics.model import PolicyError
from policyengine.engine import Engine
from policyengine.executor import run_in_turn
from policyengine.explain.endpoint_words import endpoint_words
from policyengine.fair_queue import WorkRefusedError
from policyengine.http.rate_limit_headers import HeaderFields, rate_limit_headers
from policyengine.kernel import Kernel
from policyengine.runtime.current_caller import current_caller
from policyengine.runtime.decision import Decision, Gate, Obligation, Outcome, Reason, Remedy
from policyengine.runtime.idempotency import IdempotencyKey
from policyengine.runtime.request import Request
from policyengine.runtime.structure_checks import RequestError, wrong_type_error
from policyengine.server.adapters.responses import WOULD_BE_HEADER
from policyengine.server.authzen.evaluations import CONSUME, MEMBERS, AccessEvaluation, JsonObject, UnmappedError
from policyengine.server.authzen.requests import AuthzenRequest, item_context, read_evaluation, takes_long
from policyengine.server.authzen.translator import OBLIGATIONS, QuestionTranslator
from policyengine.server.authzen.untranslatable import ignore_denial
from policyengine.server.bearer_tokens import EVERY_CALLER, NAMED_CALLER_PREFIX
from policyengine.server.content_negotiation import BodyFormat
from policyengine.server.decide_requests import MAX_INLINE_ITEMS, run_off_loop
from policyengine.server.mcp.servers import NO_MCP_SERVERS, McpServerTable
from policyengine.server.problems import ProblemError
from policyengine.server.telemetry.metered_engine import MeteredEngine

PREFIX, METADATA = "/access/v1", "/.well-known/authzen-configuration"
EVALUATION, EVALUATIONS, SEARCH = f"{PREFIX}/evaluation", f"{PREFIX}/evaluations", f"{PREFIX}/search"
LANGUAGE = "en"
REASON_CODES = {Outcome.DENY: "denied", Outcome.CONFIRM: "approval_required", Outcome.THROTTLE: "throttled"}
INVALID, UNMAPPED, FAILED, CONSUME_UNSET = "invalid", "unmapped", "failed", "consume_unset"
HISTORY = "history"  # the rule name in a consume obligation


# ── Answers ───────────────────────────────────────────────────────────────────────────────────


class AuthzenResult(NamedTuple):
    """A decision, the code of its reason (empty for an allow), and the endpoint in words."""

    decision: Decision
    code: str
    words: str = ""


@dataclass(slots=True)
class TranslatorCache:
    """The translator for the latest policy; it is rebuilt when a reload replaces the policy."""

    mcp_servers: McpServerTable = NO_MCP_SERVERS
    last: QuestionTranslator | None = None

    def of(self, kernel: Kernel) -> QuestionTranslator:
        found = self.last
        if found is None or found.kernel is not kernel:
            found = self.last = QuestionTranslator(kernel, self.mcp_servers)
        return found


@dataclass(frozen=True, slots=True)
class AuthzenAdapter:
    """Asks one engine, with the maps of its policy. `consume` has the names of the callers whose evaluations spend
    unless `context.consume` is false, or `*` for every caller.
    """

    engine: Engine | MeteredEngine
    translators: TranslatorCache = field(default_factory=TranslatorCache)
    refused: Callable[[str, str], None] = ignore_denial
    consume: frozenset[str] = frozenset()

    @property
    def translator(self) -> QuestionTranslator:
        return self.translators.of(self.engine.kernel)

    @property
    def consumes(self) -> bool:
        """Whether evaluations of the current caller spend unless `context.consume` is false."""
        caller = current_caller()
        named = caller.startswith(NAMED_CALLER_PREFIX) and caller.removeprefix(NAMED_CALLER_PREFIX) in self.consume
        return named or EVERY_CALLER in self.consume

    async def one(self, asked: AuthzenRequest, once: IdempotencyKey | None) -> Response:
        long = takes_long(asked.members)
        reading = partial(read_evaluation, asked.members, consumes=self.consumes)
        evaluation = await run_in_turn(reading) if long else reading()
        long = long or self.loops_long(evaluation)
        once = once if evaluation.spends else None
        answer, headers = await run_off_loop(
            self.engine, partial(self.answer, evaluation, once), once, evaluation.context, long=long
        )
        return json_response(answer, dict(headers))

    async def many(self, asked: AuthzenRequest, once: IdempotencyKey | None) -> Response:
        if not asked.items:
            return await self.one(asked, once)
        answers: list[JsonObject] = []
        shared = takes_long({name: asked.members[name] for name in MEMBERS if name in asked.members})
        for number, item in enumerate(asked.items):
            mine = None if once is None else once._replace(item=number)
            work = partial(self.item, asked, item, f"evaluations[{number}]", mine)
            long = shared or takes_long(item) or self.item_loops_long(asked, item)
            try:
                answers.append(await run_off_loop(self.engine, work, mine, item_context(asked, item), long=long))
            except WorkRefusedError as error:  # earlier items keep their decisions
                answers.append(evaluation_answer(self.denied(str(error), FAILED), False))
            if asked.semantics.ends_with(answers[-1]["decision"] is True):
                break
            await asyncio.sleep(0)  # let other requests run during a long batch
        return json_response({"evaluations": answers})

    def may_answer_at_once(self, asked: AuthzenRequest) -> bool:
        """Return whether an event loop may answer, because no part of the body waits or takes a long time."""
        if len(asked.items) > MAX_INLINE_ITEMS or takes_long({name: asked.members.get(name) for name in MEMBERS}):
            return False
        if any(map(takes_long, asked.items)):
            return False
        if any(self.item_loops_long(asked, item) for item in asked.items or ({},)):
            return False
        contexts = (
            [item_context(asked, item) for item in asked.items] if asked.items else [asked.members.get("context")]
        )
        return not any(
            isinstance(context, dict) and ("credentials" in context or self.engine.forecast.takes_long(context))
            for context in contexts
        )

    def item_loops_long(self, asked: AuthzenRequest, item: object) -> bool:
        """Return whether the rules may loop for a long time for an item; False for an item that cannot be read."""
        if not self.engine.forecast.has_loops or not isinstance(item, dict):
            return False
        try:
            return self.loops_long(read_evaluation(asked.merged(item)))
        except RequestError:
            return False

    def loops_long(self, evaluation: AccessEvaluation) -> bool:
        """Return whether the rules may loop for a long time, for example over attributes; False for an evaluation that
        cannot be translated.
        """
        if not self.engine.forecast.has_loops:
            return False
        try:
            return self.engine.forecast.takes_long_to_decide(Request.from_mapping(self.question(evaluation)))
        except (UnmappedError, RequestError, PolicyError):
            return False
        except Exception:  # the engine denies a question that cannot be measured
            return True

    def answer(
        self, evaluation: AccessEvaluation, once: IdempotencyKey | None = None
    ) -> tuple[JsonObject, HeaderFields]:
        """Return the answer to a single evaluation, and its headers. Raises IdempotencyKeyError."""
        found = self.decided(evaluation, once)
        headers = (*decision_headers(found.decision), *rate_limit_headers(found.decision))
        return evaluation_answer(found, evaluation.spends), headers

    def answer_items(self, asked: AuthzenRequest) -> list[JsonObject]:
        """Answer the items in order, up to and including the item that ends the batch."""
        answers: list[JsonObject] = []
        for number, item in enumerate(asked.items):
            answers.append(self.item(asked, item, f"evaluations[{number}]", None))
            if asked.semantics.ends_with(answers[-1]["decision"] is True):
                break
        return answers

    def item(self, asked: AuthzenRequest, raw: object, place: str, once: IdempotencyKey | None) -> JsonObject:
        """Answer one item; an invalid item is denied and does not affect the others."""
        try:
            if not isinstance(raw, dict):
                raise wrong_type_error(raw, place, "an object")
            evaluation = read_evaluation(asked.merged(raw), f"{place}.", consumes=self.consumes)
        except RequestError as error:
            return error_answer(error, self.denied(error.message, INVALID))
        return evaluation_answer(self.decided(evaluation, once if evaluation.spends else None), evaluation.spends)

    def decided(self, asked: AccessEvaluation, once: IdempotencyKey | None = None) -> AuthzenResult:
        """Decide an evaluation; an evaluation that cannot be translated is denied. Raises IdempotencyKeyError."""
        try:
            if self.translator.passes(asked):
                return AuthzenResult(
                    Decision.of(Outcome.ALLOW, package=self.engine.package, revision=self.engine.revision), ""
                )
            question = Request.from_mapping(self.question(asked))
        except UnmappedError as why:
            return self.denied(str(why), UNMAPPED)
        except RequestError as error:
            return self.denied(error.message, INVALID)
        except PolicyError:  # bundles decode their maps lazily
            return self.denied("the maps of the policy cannot be read", FAILED)
        if not asked.spends:
            decision = self.engine.evaluate(question)
        else:
            decision = self.engine.decide(question) if once is None else self.engine.decide_once(question, once)[0]
        words = endpoint_words(question.endpoint)
        if not asked.spends and not asked.peeks and is_unspent(decision):
            return self.deny_undeclared_spending(decision, words)
        code = FAILED if decision.gate is Gate.FAILURE else REASON_CODES.get(decision.would_be or decision.outcome, "")
        return AuthzenResult(decision, code, words)

    def deny_undeclared_spending(self, decision: Decision, words: str) -> AuthzenResult:
        """Turn an allow into a denial if the question does not say whether it spends, because limits would otherwise
        silently not count the request.
        """
        rule = next(one.rule for one in decision.obligations if one.kind == CONSUME)
        why = f"the answer would spend (`{rule}`), but the question does not say whether it may: "
        why += "send `context.consume`, or ask the operator for `[authzen] consume`"
        self.refused(CONSUME_UNSET, why)
        gate = Gate.GUARD if rule == HISTORY else Gate.RATE
        answer = msgspec.structs.replace(
            decision.answer, outcome=Outcome.DENY, gate=gate, reasons=(Reason(gate, why),), obligations=(), written={}
        )
        return AuthzenResult(msgspec.structs.replace(decision, answer=answer), CONSUME_UNSET, words)

    def question(self, asked: AccessEvaluation) -> Mapping[str, object]:
        """Translate the evaluation. If credentials are verified, `context.credentials` are the credentials of the
        subject."""
        found = self.translator.question(asked)
        context = found.get("context")
        if self.engine.identity is None or not isinstance(context, Mapping) or "credentials" not in context:
            return found
        rest = {name: value for name, value in context.items() if name != "credentials"}
        return {**found, "context": rest, "credentials": context["credentials"]}

    def denied(self, why: str, code: str) -> AuthzenResult:
        self.refused(code, why)
        reasons = (Reason(Gate.DEFAULT, why),)
        package, revision = self.engine.package, self.engine.revision
        return AuthzenResult(Decision.of(Outcome.DENY, Gate.DEFAULT, reasons, package=package, revision=revision), code)


def is_unspent(decision: Decision) -> bool:
    """Return whether the decision is an allow that has not spent what it requires."""
    return decision.allowed and any(one.kind == CONSUME for one in decision.obligations)


def decision_headers(decision: Decision) -> Iterator[tuple[str, str]]:
    if decision.id:
        yield "x-decision-id", decision.id
    if decision.would_be is not None:
        yield WOULD_BE_HEADER, decision.would_be.value


def json_response(answer: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(answer), headers=headers, media_type=BodyFormat.JSON.value[0])


def evaluation_answer(found: AuthzenResult, spent: bool) -> JsonObject:
    """Return the answer. It includes the id of the decision, for reporting the outcome, only if the evaluation spent,
    so that other evaluations of the same question get equal answers.
    """
    decision = found.decision
    context: JsonObject = {} if decision.allowed and not decision.observed else reason_document(found)
    if decision.would_be is not None:
        context["would_be"] = decision.would_be.value
    if found.code == REASON_CODES[Outcome.CONFIRM]:
        context["approvals"] = [approval_document(one) for one in decision.remedies if one.kind == "approval"]
    if decision.obligations:
        context["obligations"] = list(obligation_documents(decision.obligations))
    if spent and decision.id:
        context["evaluation_id"] = decision.id
    return {"decision": decision.allowed, **({"context": context} if context else {})}


def approval_document(remedy: Remedy) -> JsonObject:
    """Return the approval that a request needs, with the parts that it is bound to and, if the question has opened an
    approval, its ID and state.
    """
    found = {
        "rule": remedy.rule,
        "by": remedy.by,
        "issuers": remedy.issuers,
        "within": remedy.within,
        "binding": remedy.binding,
        "bound": remedy.bound,
        "approval": None if remedy.approval is None else msgspec.to_builtins(remedy.approval),
    }
    return {name: value for name, value in found.items() if value is not None}


def error_answer(error: RequestError, found: AuthzenResult) -> JsonObject:
    answer = evaluation_answer(found, False)
    context = answer["context"]
    assert isinstance(context, dict)
    context["error"] = {"status": 400, "message": str(error)}
    return answer


def reason_document(found: AuthzenResult) -> JsonObject:
    """Return the reasons: `reason_user` for the caller, `reason_admin`, with rules and facts, for the operator."""
    reasons, unknown = found.decision.reasons, found.decision.unknown
    first = reasons[0].message if reasons else "not allowed"
    words = (f"asked for {found.words}",) if found.words else ()
    admin = "; ".join((*words, *map(describe_reason, reasons), *(f"{one.fact} is {one.why}" for one in unknown)))
    return {"id": "0", "reason": found.code, "reason_user": {LANGUAGE: first}, "reason_admin": {LANGUAGE: admin}}


def describe_reason(reason: Reason) -> str:
    rule = "" if reason.rule is None else f" `{reason.rule}`"
    place = "" if reason.at is None else f" ({reason.at})"
    return f"{reason.gate.value}{rule}{place}: {reason.message}"


def obligation_documents(obligations: tuple[Obligation, ...]) -> Iterator[JsonObject]:
    for number, one in enumerate(obligations, start=1):
        type_, properties = obligation_type(one)
        yield {"id": f"obligation-{number}", "type": type_, "properties": properties}


def obligation_type(one: Obligation) -> tuple[str, JsonObject]:
    """Return the registered AuthZEN type of an obligation, or `custom`, and its properties."""
    match one.kind, one.arguments:
        case "step_up", (level, *_):
            return "step-up", {"acr_value": level}
        case "notify", (who, *_):
            return "notification", {"to": who, "body": one.message or one.rule}
        case _:
            message = {} if one.message is None else {"message": one.message}
            return "custom", {"kind": one.kind, "arguments": list(one.arguments), "rule": one.rule, **message}


# ── Metadata ──────────────────────────────────────────────────────────────────────────────────


def metadata_document(base: str) -> JsonObject:
    """Return the metadata with the supported endpoints, at the public URL `base`."""
    return {
        "policy_decision_point": base,
        "access_evaluation_endpoint": base + EVALUATION,
        "access_evaluations_endpoint": base + EVALUATIONS,
        "supported_obligations": list(OBLIGATIONS),
    }


def search_not_supported(what: str) -> ProblemError:
    return ProblemError(404, f"there is no search for {what} yet", hint=f"`{METADATA}` lists the endpoints")
