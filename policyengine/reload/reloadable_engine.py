"""The engine that decides now. Another takes its place in one assignment, so that no answer is of both."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from policyengine.clock import Clock, utc_now
from policyengine.compiler.bundle.file import decode_bundle
from policyengine.diagnostics.model import PolicyError
from policyengine.engine import Engine
from policyengine.engine.observe_mode import ObserveError
from policyengine.engine.question import new_id
from policyengine.entities.sources import EntitySources, SourcesArgument
from policyengine.identity.config.model import IdentityError
from policyengine.identity.factory import IdentitySource
from policyengine.reload.candidate import Candidate, RefusalKind, ReloadRefusedError, prepare_candidate
from policyengine.reload.gate import ReloadGate
from policyengine.reload.rules import ReloadRules
from policyengine.reload.source import ReloadSource
from policyengine.stores.base import Store, StoreError

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """How many there were, and how many were refused; `why` and `at` (RFC 3339) of the last one while it stays so.

    `widens` is how much the last one let pass that did not pass before, `proved` whether that is all: None while it is
    not known. `reasons` counts refusals by their kind, `widened` the reloads that widened something.
    """

    done: int = 0
    refused: int = 0
    why: str | None = None
    at: str | None = None
    widens: int | None = None
    proved: bool | None = None
    reasons: tuple[tuple[str, int], ...] = ()
    widened: int = 0

    def to_dict(self) -> dict[str, object]:
        told = {"done": self.done, "refused": self.refused, "why": self.why, "at": self.at}
        return {**told, "widens": self.widens, "proved": self.proved}

    def with_refusal(self, refused: ReloadRefusedError) -> ReloadStatus:
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        reasons = Counter(dict(self.reasons)) + Counter([refused.reason.value])
        return replace(self, refused=self.refused + 1, why=refused.why, at=now, reasons=tuple(sorted(reasons.items())))


class ReloadableEngine:
    """`current` is the engine that decides now. Read it once for each question: `reloading.current.decide(question)`.

    Threads may share it. With an `origin` it can `reload`: what is bad is refused, and the last good one goes on. So is
    what takes away more than `rules` allow at that time.
    """

    def __init__(
        self, engine: Engine, origin: ReloadSource | None = None, rules: Callable[[], ReloadRules] = ReloadRules
    ) -> None:
        self.current = engine
        self.origin = origin
        self.reloads = ReloadStatus()
        self.gate = ReloadGate(rules)
        self._taken = b""  # the bundle that was taken last
        self._one_at_a_time = Lock()

    @classmethod
    def load(
        cls,
        *paths: Path | str,
        entities: SourcesArgument | None = None,
        keys: tuple[Path | str, ...] | None = None,
        identity: IdentitySource | None = None,
        tested: bool = True,
        rules: ReloadRules | None = None,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
        log: DecisionLog | None = None,
        store: Store | None = None,
    ) -> ReloadableEngine:
        """From files and folders of policies, or from one bundle, as `Engine.load` and `Engine.from_bundle`.

        `rules` say what a reload may take away: nothing, unless they are given. Raises ReloadRefusedError: also the
        first policies have to pass their own tests, unless these are not to be `tested`; and IdentityError.
        """
        files = None if keys is None else tuple(map(Path, keys))
        origin = ReloadSource(
            tuple(map(Path, paths)), None if entities is None else EntitySources.of(entities), files, tested
        )
        first = prepare_candidate(origin)
        bundle = decode_bundle(first.bundle)
        engine = Engine(
            bundle.kernel, directory=first.directory, tree=bundle.tree, clock=clock, ids=ids, log=log, store=store
        )
        kept = ReloadRules() if rules is None else rules
        found = cls(engine.verify_credentials(identity), origin, lambda: kept)
        found.gate.remember(first)
        return found

    def reload(
        self, prepare: Callable[[ReloadSource], Candidate] = prepare_candidate, *, allow: Iterable[str] = ()
    ) -> bool:
        """Read all of it anew. Whether that decides now; else `reloads.why` and the operator's log say why not.

        `allow` is what may be gone this once: words of `ReloadRules`, or the revision of what is read. What the new
        policies widen is told in the log by a thread, later. Raises ReloadRuleError.
        """
        assert self.origin is not None, "it does not know from where"
        once = ReloadRules.of(allow).allow
        with self._one_at_a_time:
            try:
                candidate = prepare(self.origin)
                if self.is_new(candidate):
                    self.check(candidate, once)
                    self.replace(self.engine_of(candidate))
            except ReloadRefusedError as refused:
                self.refuse(refused)
                return False
        self.gate.compare_beside(self.compared)
        return True

    def engine_of(self, candidate: Candidate) -> Engine:
        """What comes next, on the store, the clock and the log of this one. Raises ReloadRefusedError."""
        from policyengine.audit.log import LogError

        try:
            bundle = decode_bundle(candidate.bundle)
            engine = self.current.successor(bundle.kernel, directory=candidate.directory, tree=bundle.tree)
            self._taken = candidate.bundle
            return engine
        except LogError as error:
            why = "the entities cannot be written to the decision log"
            raise ReloadRefusedError(why, [str(error)], RefusalKind.ENTITIES) from None
        except ObserveError as error:
            raise ReloadRefusedError("what is observed would not be there any more", [str(error)]) from None
        except IdentityError as error:
            hint = f" ({error.hint})" if error.hint else ""
            raise ReloadRefusedError("its issuers do not fit `--identity`", [f"{error.message}{hint}"]) from None
        except PolicyError as error:
            raise ReloadRefusedError("the bundle cannot be used", [one.render() for one in error.diagnostics]) from None

    def is_new(self, candidate: Candidate) -> bool:
        """Whether anything about it is not as it was when one was taken last."""
        rows, now = candidate.directory, self.current.directory
        if candidate.bundle != self._taken or (rows is not None and not rows.same_as(now)):
            return True
        self.reloads = replace(self.reloads, why=None, at=None)
        _LOG.info("nothing has changed: %s decides", self.current.revision, extra={"event": "reload_same"})
        return False

    def check(self, candidate: Candidate, allow: frozenset[str] = frozenset()) -> None:
        """Check that nothing is gone, and with a gate that nothing opens, unless it is allowed. Raises
        ReloadRefusedError."""
        self.gate.check(self.current, candidate, allow)

    def replace(self, engine: Engine) -> None:
        """It decides from now on. Histories that its rules ask for begin now, those that no rule asks for end."""
        before = self.swap(engine)
        self.begin(before)

    # ── The same in two steps, where several processes go together ────────────────────────────

    def swap(self, engine: Engine) -> Engine:
        """It decides from now on; the one that did before."""
        before, self.current = self.current, engine
        self.reloads = replace(self.reloads, done=self.reloads.done + 1, why=None, at=None, widens=None, proved=None)
        _LOG.info(
            "the policies were reloaded: %s", engine.revision,
            extra={"event": "reload", "revision": engine.revision, "before": before.revision},
        )  # fmt: skip
        if self.origin is not None:
            self.gate.swapped(before, engine)
        return before

    def begin(self, before: Engine) -> None:
        """Once nobody decides by the ones before: what happened until now was not recorded for every rule."""
        engine = self.current
        try:
            engine.state.stop_history(before.state.history_names - engine.state.history_names)
            engine.state.start_history(engine.decider.now)
        except StoreError as error:
            _LOG.error("the store was not told which history is asked for: %s", error, extra={"event": "store_fails"})

    def refuse(self, refused: ReloadRefusedError) -> None:
        """It is told, and the last good one goes on."""
        self.reloads = self.reloads.with_refusal(refused)
        _LOG.error(
            "the policies were not reloaded, %s still decides: %s", self.current.revision, refused,
            extra={"event": "reload_refused", "revision": self.current.revision, "why": refused.why,
                   "reason": refused.reason.value},
        )  # fmt: skip

    # ── What the last reload changed ──────────────────────────────────────────────────────────

    def attend(self) -> None:
        """Start or finish comparing what the last reload changed, without waiting for it."""
        self.gate.attend(self.compared)

    def compared(self, widens: int, proved: bool) -> None:
        more = int(widens > 0)
        self.reloads = replace(self.reloads, widens=widens, proved=proved, widened=self.reloads.widened + more)
