"""Laws that hold for every case and every engine; short and long test runs share them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from random import Random
from typing import Any

import msgpack  # type: ignore[import-untyped]

from policyengine import kernel as k
from policyengine.engine import Engine
from policyengine.runtime.decision import Decision, Outcome
from policyengine.runtime.request import Request
from tests.generate.cases import Case, kernel_of
from tests.generate.hazards import copied
from tests.generate.requests import Question, approved, directory, pendable
from tests.generate.specified import said
from tests.trusting import TRUSTING

FROM_THE_GATEWAY = ("redact", "step_up", "header")


def engine_of(case: Case) -> Engine:
    return Engine(
        case.kernel, directory=directory(case.rows), clock=lambda: case.now, ids=lambda _: "one", approvals=TRUSTING
    )


def meaning(decision: Decision) -> dict[str, Any]:
    """Return a decision without source positions."""
    plain = decision.to_dict()
    for part in (*plain["reasons"], *plain["obligations"]):
        part.pop("at", None)
    return plain


# ── One property each: an AssertionError says that it does not hold ───────────────────────────


def an_answer_is_whole(case: Case) -> None:
    """Only an allow has no gate and no reason; only an allow has obligations for the gateway."""
    decision = case.decide()
    assert decision.allowed is (decision.outcome is Outcome.ALLOW)
    assert decision.allowed is (decision.gate is None) is (not decision.reasons)
    assert decision.allowed or all(one.kind in ("audit", "notify") for one in decision.obligations)
    assert decision.outcome is not Outcome.CONFIRM or any(remedy.kind == "approval" for remedy in decision.remedies)
    json.dumps(decision.to_dict())


def no_failure_inside(case: Case) -> None:
    """The specification raises no error, which an engine would hide."""
    engine = engine_of(case)
    engine.decide(case.request)
    assert engine.failures == 0


def an_explanation_comes_to_the_same(case: Case) -> None:
    engine = engine_of(case)
    explained, decided = engine.explain(case.request), engine.evaluate(case.request)
    assert explained.decision == decided
    assert explained.render()
    json.dumps(explained.to_dict())


def asked_again_the_answer_is_the_same(case: Case) -> None:
    engine = engine_of(case)
    assert engine.evaluate(case.request) == engine.evaluate(case.request)


def order_means_nothing(case: Case) -> None:
    """Declarations, files and rows in another order have the same meaning and give the same decision."""
    random = Random(
        case.policy.files[0].text
    )  # one other order for each policy, because checking takes most of the time
    other = replace(case, policy=case.policy.split().shuffled(random), rows=random.sample(case.rows, len(case.rows)))
    found = kernel_of(other.policy)
    assert found is not None
    assert replace(found, package="") == replace(case.kernel, package="")
    assert {**meaning(other.decide()), "package": ""} == {**meaning(case.decide()), "package": ""}


def every_way_in_reads_the_same(case: Case) -> None:
    """JSON, MessagePack and Python objects are read alike; MessagePack cannot represent lone surrogates or such large
    numbers."""
    try:
        packed = msgpack.packb(case.question)
    except (OverflowError, UnicodeEncodeError):
        packed = None
    ways = [Request.from_mapping(case.question), *([Request.from_msgpack(packed)] if packed else [])]
    engine = engine_of(case)
    decided = engine.evaluate(case.request)
    for request in ways:
        assert said(engine.evaluate(request)) == said(decided)


def what_is_pending_opens_nothing(case: Case) -> None:
    """An allow with pending facts remains an allow for any value of these facts."""
    random = Random(repr(case.question))
    for asked in pending_variants(random, case):
        decision = replace(case, question=asked).decide()
        assert not decision.allowed or case.decide().allowed, f"allowed while pending: {asked['pending']}"


def a_guard_only_closes(case: Case) -> None:
    if case.decide().allowed:
        for fewer in without_each(case.kernel, "guards"):
            assert case.decide(fewer).allowed, f"without a guard: {case.decide(fewer)}"
        for fewer in without_each(case.kernel, "delegation"):
            assert case.decide(fewer).allowed, "without limits on delegation"


def a_block_only_opens(case: Case) -> None:
    if not case.decide().allowed:
        for name in ("agents", "users", "anyones", "unrestricted"):
            for fewer in without_each(case.kernel, name):
                assert not case.decide(fewer).allowed, f"allowed with less in {name}"


def without_doors_nothing_is_allowed(case: Case) -> None:
    assert not case.decide(replace(case.kernel, agents=(), users=(), anyones=())).allowed


def what_the_caller_cannot_do_is_not_asked_of_it(case: Case) -> None:
    asked = {**case.question, "options": {"obligations_supported": []}}
    decision = replace(case, question=asked).decide()
    assert not any(one.kind in FROM_THE_GATEWAY for one in decision.obligations)
    assert not decision.allowed or case.decide().allowed or "options" in case.question


def an_approval_is_spent_once(case: Case) -> None:
    """N approvals lift a confirm at most N times; then it applies again."""
    decision = case.decide()
    if decision.outcome is not Outcome.CONFIRM:
        return
    asked = approved(Random(repr(case.question)), case.question, decision, case.now)
    engine = engine_of(replace(case, question=asked))
    allows = [engine.decide(json.dumps(asked)).allowed for _ in range(len(asked["approvals"]) + 1)]
    assert allows == sorted(allows, reverse=True)
    assert not allows[-1]


def what_is_approved_is_known(case: Case) -> None:
    """No approval is requested for pending facts, unless it is not bound to them."""
    if case.decide().outcome is Outcome.CONFIRM:
        for one in confirms_of(case):
            for path in paths_of(one, case.question):
                hidden = [name for name in case.question.get("pending", ()) if f"{name}.".startswith(f"{path}.")]
                assert all(left_out(name, one) for name in hidden), f"asked while pending: {hidden}"


def an_approval_lifts_only_what_it_was_granted_for(case: Case) -> None:
    """Approvals of one question lift a confirm of another only if both agree on everything that is bound."""
    decision = case.decide()
    if decision.outcome is not Outcome.CONFIRM:
        return
    random = Random(repr(case.question))
    granted = approved(random, case.question, decision, case.now)["approvals"]
    for other in near_misses(random, case.question):
        without = replace(case, question=other).decide()
        lifted = reasons_of(without) - reasons_of(replace(case, question={**other, "approvals": granted}).decide())
        for one in (one for one in confirms_of(case) if one.span.at in lifted):
            assert agreeing(one, case.question, other), f"lifted by an approval of something else: {other}"


PROPERTIES = (
    an_answer_is_whole,
    no_failure_inside,
    an_explanation_comes_to_the_same,
    asked_again_the_answer_is_the_same,
    order_means_nothing,
    every_way_in_reads_the_same,
    what_is_pending_opens_nothing,
    a_guard_only_closes,
    a_block_only_opens,
    without_doors_nothing_is_allowed,
    what_the_caller_cannot_do_is_not_asked_of_it,
    an_approval_is_spent_once,
    what_is_approved_is_known,
    an_approval_lifts_only_what_it_was_granted_for,
)


# ── What approvals are bound to, said once more: by hand, and only as far as questions say it ──


def confirms_of(case: Case) -> Iterator[k.Confirm]:
    """Return the confirms that act, by place."""
    asked = reasons_of(case.decide())
    for guard in case.kernel.guards:
        yield from (one for one in guard.effects if isinstance(one, k.Confirm) and one.span.at in asked)


def reasons_of(decision: Decision) -> set[str]:
    return {str(one.at) for one in decision.reasons if one.outcome is Outcome.CONFIRM}


def paths_of(confirm: k.Confirm, asked: Question) -> list[str]:
    if confirm.bound is not None:
        return [".".join(one.path) for one in confirm.bound.objects]
    if asked.get("tool") is not None:
        return ["body", "args"]
    if asked.get("action") is not None:
        return ["body", "args", "context"]
    return ["body", "args", "request.query", "request.host"]


def left_out(name: str, confirm: k.Confirm) -> bool:
    excepts = [".".join(path) for one in confirm.bound.objects for path in one.excepts] if confirm.bound else []
    return any(f"{name}.".startswith(f"{one}.") for one in excepts)


def agreeing(confirm: k.Confirm, one: Question, other: Question) -> bool:
    """Return whether both have the same caller, endpoint, and objects that are bound as a whole."""
    paths = ["user", "agent.id", "agent.issuer", "tool", "action", "resource", *paths_of(confirm, one)]
    return all(plainly(one, path, confirm) == plainly(other, path, confirm) for path in paths)


def plainly(asked: Question, path: str, confirm: k.Confirm) -> str:
    """Return the value as a text that distinguishes `1`, `1.0` and `"1"`."""
    found: Any = asked
    for step in path.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    return json.dumps(without(deepcopy(found), path, confirm), sort_keys=True)


def without(found: Any, path: str, confirm: k.Confirm) -> Any:
    if not isinstance(found, dict):
        return found
    kept = {name: one for name, one in found.items() if not left_out(f"{path}.{name}", confirm)}
    return {name: without(one, f"{path}.{name}", confirm) for name, one in kept.items()}


def near_misses(random: Random, asked: Question, most: int = 6) -> Iterator[Question]:
    """Yield the question with one change, usually of a requested value."""
    given = ((root, asked.get(root)) for root in ("body", "args", "context"))
    members = [(root, name) for root, some in given if isinstance(some, Mapping) for name in some]
    changes: list[tuple[str, Any]] = [
        ("body.trace_id", 2), ("body.options", {"dry": False}), ("body.x-id", None), ("args.trace_id", "2"),
        ("args.options", {"dry": [1]}), ("context.trace_id", 1), ("request.query", {"page": "8"}),
        ("request.host", "other.example"), ("request.headers", {"X-Trace": "evil"}), ("user.id", "bob"),
        *((f"{root}.{name}", None) for root, name in members),
        *((f"{root}.{name}", 10**6) for root, name in members),
    ]  # fmt: skip
    for path, value in random.sample(changes, min(most, len(changes))):
        root, _, name = path.partition(".")
        before = asked.get(root)
        yield {**copied(asked), root: {**(before if isinstance(before, Mapping) else {}), name: value}}


# ── Variants ──────────────────────────────────────────────────────────────────────────────────


def without_each(kernel: k.Kernel, name: str) -> Iterator[k.Kernel]:
    """Yield the kernel without one part of a kind, for every part."""
    parts = getattr(kernel, name)
    for index in range(len(parts)):
        yield replace(kernel, **{name: parts[:index] + parts[index + 1 :]})


READS = re.compile(
    r"\b(?:body|args|context|credential|attestation|task|user|resource)\.[a-z_]+|request\.(?:ip|size)|chain\.hops"
)
OTHERS = {"body.*", "args.*", "context.*"}


def pending_variants(random: Random, case: Case, most: int = 8) -> Iterator[Question]:
    """Yield the question with some facts that the policy reads pending instead of given, known or absent."""
    asked = case.question
    read = sorted({name for declaration in rules(case) for name in READS.findall(declaration)})
    for _ in range(most if read else 0):
        names = random.sample(read, min(len(read), random.randint(1, 2)))
        names += random.sample(pendable(asked), 1) if random.random() < 0.2 else []
        names += {f"{name.partition('.')[0]}.*" for name in names} & OTHERS if random.random() < 0.3 else set()
        variant = deepcopy(asked)
        for name in names:
            root, _, member = name.partition(".")
            variant.get(root, {}).pop(member, None)
        names = [name for name in names if f"{name.partition('.')[0]}.*" not in names or name in OTHERS]
        yield {**variant, "pending": sorted({*asked.get("pending", ()), *names})}


def rules(case: Case) -> Iterator[str]:
    """Return the declarations that read facts: guards above all, because there are few and they hold the limits."""
    for declaration in (one for file in case.policy.files for one in file.declarations):
        if declaration.startswith(("guard", "agent", "user", "define")):
            yield declaration
