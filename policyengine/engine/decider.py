"""One decision: the quick way where it is plain, with care where it is not; what it spends, on record."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from msgspec.json import encode
from msgspec.structs import replace

from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.reads import nanoseconds
from policyengine.engine.authenticate import (
    TRANSIENT_REFUSALS,
    refusal_code,
    reject_raw_credentials,
    with_recorded_facts,
    without_credentials,
)
from policyengine.engine.recorder import Keeping, World, apply_settlement
from policyengine.engine.request_input import (
    EPOCH,
    AuthenticatedQuestion,
    QuestionLike,
    microseconds,
    new_id,
    parse_request,
    plain_question,
    reject_chosen_time,
)
from policyengine.entities.lookup import LookupEntityStore
from policyengine.identity.verified import PROVABLE_ROOTS
from policyengine.runtime.caller import outcome_key
from policyengine.runtime.decision import Decision, Effects, Gate, Obligation
from policyengine.runtime.history import History, WindowKey
from policyengine.runtime.idempotency_key import (
    IdempotencyClaim,
    IdempotencyKey,
    IdempotencyKeyError,
    IdempotencyRecord,
    KeyInProgressError,
    KeyReuseError,
)
from policyengine.runtime.idempotent_decision import (
    IdempotentDecision,
    decode_draft,
    encode_draft,
    encode_facts,
    restore_decision,
)
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.evaluate import build_facts
from policyengine.stores.base import StoreError

MAX_COMMIT_TRIES = 100  # to decide again where another decision was quicker


class WouldBlockError(Exception):
    """Nothing was decided: an event loop should not wait for it."""


class Made(NamedTuple):
    """A decision and what it depended on: the clock, and which of its approvals were spent before."""

    decision: Decision
    now: datetime
    spent: frozenset[str]
    spends: tuple[str, ...] = ()
    past: bytes = b""  # as the log has it
    mark: bytes = b""  # of the directory


class Deciding(Keeping):
    """Decides one question by a kernel. Threads may share it."""

    def decide(self, question: QuestionLike, *, at_once: bool = False) -> Decision:
        """Decide and spend: an allow uses up the approvals it needed. `options.consume: false` only peeks.

        Raises RequestError for an ill-formed question, and for one that sets `options.at` and would spend;
        WouldBlockError where it is wanted `at_once` and may take long.
        """
        if type(question) is not dict:
            question = plain_question(question)
        if self.identity is not None:
            question = self._identified(self.identity, question)
        if type(question) is dict:  # the way that most questions go: each call on it counts
            world = self._world
            try:
                quick = (world.at_once if at_once else world.quick)(question)
            except StoreError as error:  # nobody knows whether it was spent: it is not asked again
                return self._kept(question, self._unanswered(error), b"decide", world.mark)
            except Exception:
                return self._kept(question, self._failed(), b"decide", world.mark)
            if quick is not None:
                return quick if self._as_it_is else self._finished(question, quick, b"decide", world)
        request = reject_raw_credentials(parse_request(question))
        if at_once and self.takes_long(request):
            raise WouldBlockError("it may take long")
        if not request.options.consume:
            return self._evaluate(request)
        reject_chosen_time(request)
        return self._guarded(request, b"decide", self._spent)

    def decide_once(self, question: QuestionLike, once: IdempotencyKey) -> IdempotentDecision:
        """As `decide`, but accounted once, however often it is asked by this key: `again` gives the same decision.

        A failure is not kept. Where the store cannot say whether it was asked before, it is decided as without a key;
        where nothing is to be spent the key means nothing. Raises RequestError; KeyInProgressError, KeyReuseError:
        nothing is decided.
        """
        request = parse_request(question)
        asked: QuestionLike = AuthenticatedQuestion(request) if isinstance(question, AuthenticatedQuestion) else request
        if not request.options.consume:
            return IdempotentDecision(self.evaluate(asked), False)
        reject_chosen_time(request)
        if self.identity is None:
            reject_raw_credentials(request)
        claim = once.claim(self.revision, secrets.token_hex(8))
        try:
            found = self._store.claim(claim, microseconds(self._clock()))
        except StoreError:  # whoever guards the store tells the operator
            return IdempotentDecision(self._guarded(self._proved(asked), b"decide", self._spent), False)
        except Exception:
            return IdempotentDecision(
                self._kept(without_credentials(request), self._failed(), b"decide", self._world.mark), False
            )
        if found is not None:  # nobody looks at its credentials again: a proof counts once
            before = with_recorded_facts(request, found)
            return IdempotentDecision(self._guarded(before, b"decide", partial(self._again, claim, found)), True)
        return IdempotentDecision(self._first(asked, claim), False)

    def _first(self, asked: QuestionLike, claim: IdempotencyClaim) -> Decision:
        """By a key that nobody asked by before. What failed is not kept, nor is that somebody could not be asked."""
        request = None
        try:
            request = self._proved(asked)
            keeps = refusal_code(request) not in TRANSIENT_REFUSALS
            decision = self._guarded(request, b"decide", partial(self._spent, claim=claim if keeps else None))
            keeps = keeps and decision.gate is not Gate.FAILURE
        finally:
            if request is None or not keeps:
                with suppress(StoreError):
                    self._store.release(claim, microseconds(self._clock()))
        return decision

    def _proved(self, asked: QuestionLike) -> Request:
        """Raises RequestError."""
        return reject_raw_credentials(
            parse_request(asked if self.identity is None else self._identified(self.identity, asked))
        )

    def evaluate(self, question: QuestionLike) -> Decision:
        """Decide without spending anything: asked again, the answer is the same. Raises RequestError.

        An allow that would spend bears the obligation `consume`: ask again by `decide` before acting on it.
        """
        question = plain_question(question)
        if self.identity is not None:
            question = self._identified(self.identity, question)
        if type(question) is dict:
            world = self._world
            try:
                quick = world.peeking(question)
            except StoreError:  # nothing is spent: with care it is told what is missing
                quick = None
            except Exception:
                return self._kept(question, self._failed(), b"evaluate", world.mark)
            if quick is not None:
                return quick if self._as_it_is else self._finished(question, quick, b"evaluate", world)
        return self._evaluate(reject_raw_credentials(parse_request(question)))

    def _finished(self, question: dict[str, object], quick: Decision, call: bytes, world: World) -> Decision:
        """What the quick way answered, under the id that it is to have, and on record."""
        stamp = quick.stamp
        if self._ids is not new_id:
            try:
                named, name = getattr(self._gathered, "named", (None, ""))
                quick = quick.with_id(name if named is stamp else self._ids(self._clock()))
            except Exception:
                return self._kept(question, self._failed(), call, world.mark)
        return self._kept(question, quick, call, world.mark, None if isinstance(stamp, str) else stamp[0])

    def _evaluate(self, request: Request) -> Decision:
        return self._guarded(request, b"evaluate", self._unspent)

    def _unspent(self, request: Request) -> Made:
        now = self._now(request)
        spent = self._store.spent_among(approval.id for approval in request.approvals)
        world = self._world
        decision, effects, past = self._answer(world, request, now, spent)
        return Made(self._peeked(decision, effects, now), now, spent, past=past, mark=world.mark)

    def _spent(self, request: Request, claim: IdempotencyClaim | None = None) -> Made:
        for _ in range(MAX_COMMIT_TRIES):
            now = self._clock()
            spent = self._store.spent_among(approval.id for approval in request.approvals)
            world = self._world
            decision, effects, past = self._answer(world, request, now, spent)
            if claim is not None:
                draft = encode_draft(decision, effects, spent, past, nanoseconds(now), self._proved_of(request))
                effects = dataclasses.replace(effects, claim=claim._replace(draft=draft))
            if not effects:
                return Made(decision, now, spent, past=past, mark=world.mark)
            if (answer := self._store.commit(effects, outcome_key(decision.id), microseconds(now))) is not None:
                return Made(apply_settlement(decision, effects, answer), now, spent, effects.spends, past, world.mark)
            if claim is not None and (found := self._store.claim(claim, microseconds(now))) is not None:
                return self._again(claim, found, request)  # somebody else was quicker
        raise RuntimeError(f"what it rests on was changed {MAX_COMMIT_TRIES} times while it was decided")

    def _proved_of(self, request: Request) -> bytes:
        if self.identity is None:
            return b""
        return encode_facts({root: one for root, one in request.facts.items() if root in PROVABLE_ROOTS})

    def _again(self, claim: IdempotencyClaim, found: IdempotencyRecord, request: Request) -> Made:
        """What was decided by the same key. Raises KeyReuseError, KeyInProgressError."""
        if found.digest != claim.digest:
            raise KeyReuseError("the key came with another question before")
        if found.draft is None or found.settled is None:
            raise KeyInProgressError("the same question is being decided")
        draft = decode_draft(found.draft)
        made = EPOCH + timedelta(microseconds=draft.moment // 1_000)
        return Made(
            restore_decision(draft, found.settled),
            made,
            frozenset(draft.spent),
            draft.spends,
            draft.past,
            self._world.mark,
        )

    def _answer(
        self, world: World, request: Request, now: datetime, spent: frozenset[str]
    ) -> tuple[Decision, Effects, bytes]:
        """The decision, its effects, and what the log says of the past and of the rows that it rests on."""
        looking, evaluator = world.directory.looking(), world.evaluator
        planned, told = self._planned(world, request, now, looking), b""
        if isinstance(planned, Needs):
            history = self._fetched(planned)
            snapshot = Snapshot(world.directory if looking is None else looking, spent, history)
            decision, effects = evaluator.resume(planned, snapshot, now)
            while looking is not None and looking.lacking:
                looking.fetch()
                decision, effects = evaluator.resume(planned, snapshot, now)
            told = self._past(evaluator, request, snapshot, now) if history and self.log is not None else b""
            relied = tuple((key, one.version) for key, one in history.items())
            planned = decision, dataclasses.replace(effects, relied=relied) if effects and relied else effects
        decision, effects = planned
        if looking is not None and looking.found and self.log is not None:
            told += self.log.looked_up(looking.found, looking.types)
        decision = decision.with_id(self._ids(now))
        if effects.excess:
            self._exceeded(decision, effects.excess)
        return decision, effects, told

    def _planned(
        self, world: World, request: Request, now: datetime, looking: LookupEntityStore | None
    ) -> tuple[Decision, Effects] | Needs:
        """What the evaluator plans, once it knows the rows that it asks for: what these name may be asked for next."""
        planned = world.evaluator.plan(request, now, looking)
        while looking is not None and isinstance(planned, Needs) and planned.rows:
            looking.fetch()
            planned = world.evaluator.plan(request, now, looking)
        return planned

    def _past(self, evaluator: Evaluator, request: Request, snapshot: Snapshot, now: datetime) -> bytes:
        """Before anything is spent: what is reported later was not known."""
        assert self.log is not None
        part = evaluator.slices.of(request)
        return self.log.past(evaluator.slices.histories_in(part), build_facts(part, request, snapshot, now))

    def _fetched(self, needs: Needs) -> Mapping[WindowKey, History]:
        """As of now, also for whoever asks about another time."""
        return self._store.fetch(needs.windows, microseconds(self._clock())) if needs.windows else {}

    def _now(self, request: Request) -> datetime:
        return request.options.at or self._clock()

    def _guarded(self, request: Request, call: bytes, answer: Callable[[Request], Made]) -> Decision:
        """Fails closed: an exception inside is a deny that says so, and never more than that."""
        try:
            made = answer(request)
        except IdempotencyKeyError:
            raise
        except StoreError as error:
            return self._kept(request, self._unanswered(error), call, self._world.mark)
        except Exception:
            return self._kept(request, self._failed(), call, self._world.mark)
        if self.log is None and self._observer is None:
            return made.decision
        state = (
            b'"spent":%b,"spends":%b,' % (encode(sorted(made.spent)), encode(made.spends))
            if made.spent or made.spends
            else b""
        )
        return self._kept(request, made.decision, call, made.mark + state + made.past, nanoseconds(made.now))

    def _peeked(self, decision: Decision, effects: Effects, now: datetime) -> Decision:
        """An allow that would have spent something must be asked for again, by `decide`, before it is acted on."""
        if effects.limits:
            told = self._store.commit(effects, decision.id, microseconds(now), peek=True)
            decision = decision if told is None else apply_settlement(decision, effects, told)
        return with_consume_obligation(decision, effects)


def with_consume_obligation(decision: Decision, effects: Effects) -> Decision:
    """The decision of a look: what would be spent is to be asked for by `decide`."""
    if not decision.allowed or not effects:
        return decision
    rule = "approval" if effects.spends else effects.limits[0].name if effects.limits else "history"
    consume = Obligation("consume", (), rule, at="")
    answer = replace(decision.answer, obligations=(*decision.obligations, consume), written={})
    return replace(decision, answer=answer)
