"""The engine that decides now. Another takes its place in one assignment, so that no answer is of both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from policyengine.asking import Clock, new_id, utc_now
from policyengine.compiler.bundle import decode_bundle
from policyengine.diagnostics import PolicyError
from policyengine.directory.sources import Given, Sources
from policyengine.engine import Engine
from policyengine.identity.configuration import IdentityError
from policyengine.identity.setup import Verifying
from policyengine.observing import ObserveError
from policyengine.reloading.candidate import Candidate, Refused, prepared
from policyengine.reloading.origin import Origin
from policyengine.stores.store import Store, StoreError

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class Reloads:
    """How many there were, and how many were refused; `why` and `at` (RFC 3339) of the last one while it stays so."""

    done: int = 0
    refused: int = 0
    why: str | None = None
    at: str | None = None

    def to_dict(self) -> dict[str, object]:
        return {"done": self.done, "refused": self.refused, "why": self.why, "at": self.at}


class Reloading:
    """`current` is the engine that decides now. Read it once for each question: `reloading.current.decide(question)`.

    Threads may share it. With an `origin` it can `reload`: what is bad is refused, and the last good one goes on.
    """

    def __init__(self, engine: Engine, origin: Origin | None = None) -> None:
        self.current = engine
        self.origin = origin
        self.reloads = Reloads()
        self._taken = b""  # the bundle that was taken last
        self._one_at_a_time = Lock()

    @classmethod
    def load(
        cls,
        *paths: Path | str,
        entities: Given | None = None,
        keys: tuple[Path | str, ...] | None = None,
        identity: Verifying | None = None,
        tested: bool = True,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
        log: DecisionLog | None = None,
        store: Store | None = None,
    ) -> Reloading:
        """From files and folders of policies, or from one bundle, as `Engine.load` and `Engine.from_bundle`.

        Raises Refused: also the first policies have to pass their own tests, unless these are not to be `tested`; and
        IdentityError.
        """
        files = None if keys is None else tuple(map(Path, keys))
        origin = Origin(tuple(map(Path, paths)), None if entities is None else Sources.of(entities), files, tested)
        first = prepared(origin)
        bundle = decode_bundle(first.bundle)
        engine = Engine(
            bundle.kernel, directory=first.directory, tree=bundle.tree, clock=clock, ids=ids, log=log, store=store
        )
        return cls(engine.verifying(identity), origin)

    def reload(self, prepare: Callable[[Origin], Candidate] = prepared) -> bool:
        """Read all of it anew. Whether that decides now; else `reloads.why` and the operator's log say why not."""
        assert self.origin is not None, "it does not know from where"
        with self._one_at_a_time:
            try:
                candidate = prepare(self.origin)
                if self.is_new(candidate):
                    self.replace(self.engine_of(candidate))
            except Refused as refused:
                self.refuse(refused)
                return False
            return True

    def engine_of(self, candidate: Candidate) -> Engine:
        """What comes next, on the store, the clock and the log of this one. Raises Refused."""
        from policyengine.audit.log import LogError

        try:
            bundle = decode_bundle(candidate.bundle)
            engine = self.current.successor(bundle.kernel, directory=candidate.directory, tree=bundle.tree)
            self._taken = candidate.bundle
            return engine
        except LogError as error:
            raise Refused("the entities cannot be written to the decision log", [str(error)]) from None
        except ObserveError as error:
            raise Refused("what is observed would not be there any more", [str(error)]) from None
        except IdentityError as error:
            hint = f" ({error.hint})" if error.hint else ""
            raise Refused("its issuers do not fit `--identity`", [f"{error.message}{hint}"]) from None
        except PolicyError as error:
            raise Refused("the bundle cannot be used", [one.render() for one in error.diagnostics]) from None

    def is_new(self, candidate: Candidate) -> bool:
        """Whether anything about it is not as it was when one was taken last."""
        rows, now = candidate.directory, self.current.directory
        if candidate.bundle != self._taken or (rows is not None and not rows.same_as(now)):
            return True
        self.reloads = replace(self.reloads, why=None, at=None)
        _LOG.info("nothing has changed: %s decides", self.current.revision, extra={"event": "reload_same"})
        return False

    def replace(self, engine: Engine) -> None:
        """It decides from now on. Histories that its rules ask for begin now, those that no rule asks for end."""
        before = self.swap(engine)
        self.begin(before)

    # ── The same in two steps, where several processes go together ────────────────────────────

    def swap(self, engine: Engine) -> Engine:
        """It decides from now on; the one that did before."""
        before, self.current = self.current, engine
        self.reloads = Reloads(self.reloads.done + 1, self.reloads.refused)
        _LOG.info(
            "the policies were reloaded: %s", engine.revision,
            extra={"event": "reload", "revision": engine.revision, "before": before.revision},
        )  # fmt: skip
        return before

    def begin(self, before: Engine) -> None:
        """Once nobody decides by the ones before: what happened until now was not recorded for every rule."""
        engine = self.current
        try:
            engine.end(before.watches - engine.watches)
            engine.begin()
        except StoreError as error:
            _LOG.error("the store was not told which history is asked for: %s", error, extra={"event": "store_fails"})

    def refuse(self, refused: Refused) -> None:
        """It is told, and the last good one goes on."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self.reloads = replace(self.reloads, refused=self.reloads.refused + 1, why=refused.why, at=now)
        _LOG.error(
            "the policies were not reloaded, %s still decides: %s", self.current.revision, refused,
            extra={"event": "reload_refused", "revision": self.current.revision, "why": refused.why},
        )  # fmt: skip
