"""The reloadable engine: a reload replaces the current engine in one assignment, so that no answer mixes
two engines.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from weakref import ref

from policyengine.clock import Clock, utc_now
from policyengine.compiler.bundle.file import decode_bundle
from policyengine.diagnostics.model import PolicyError
from policyengine.engine import Engine
from policyengine.engine.observe_mode import ObserveError
from policyengine.engine.question import new_id
from policyengine.entities.cells import copy_declarations
from policyengine.entities.errors import EntitiesError
from policyengine.entities.sources import EntitySources, SourcesArgument
from policyengine.entities.store import EntityStore
from policyengine.gc_freeze import release_after_reload
from policyengine.identity.config.model import IdentityConfigError
from policyengine.identity.factory import IdentitySource
from policyengine.kernel import Kernel
from policyengine.reload.candidate import (
    Candidate,
    RefusalKind,
    ReloadRefusedError,
    prepare_candidate,
    refuse_entities,
)
from policyengine.reload.gate import ReloadGate
from policyengine.reload.rules import ReloadRules
from policyengine.reload.source import ReloadSource
from policyengine.stores.base import Store, StoreError
from policyengine.time_formats import format_rfc3339

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """The numbers of reloads and of refusals. If the last attempt was refused, `why` is the reason and `at` (RFC 3339)
    the time. `widens` is the number of widenings of the last reload, and `proved` is whether there are no others; both
    are None until that is known. `reasons` counts refusals by kind, and `widened` counts the reloads that widened
    something.
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
        now = format_rfc3339(datetime.now(UTC), "seconds")
        reasons = Counter(dict(self.reasons)) + Counter([refused.reason.value])
        return replace(self, refused=self.refused + 1, why=refused.why, at=now, reasons=tuple(sorted(reasons.items())))


class ReloadableEngine:
    """An engine that can be reloaded. `current` is the engine that decides now: read this attribute once for each
    question, as in `reloading.current.decide(question)`. Thread-safe.

    With an `origin`, the engine can `reload`. It refuses invalid policies, and policies that remove more than the
    current `rules` allow; then the current policies stay in use.

    If a watcher replaced the current entities while a reload was reading, the new policies decide with the rows that
    were read last. If it is unknown which rows were read last, or if the rows were read for other declarations, the
    rows are read again.
    """

    def __init__(
        self, engine: Engine, origin: ReloadSource | None = None, rules: Callable[[], ReloadRules] = ReloadRules
    ) -> None:
        self.current = engine
        self.origin = origin
        self.reloads = ReloadStatus()
        self.gate = ReloadGate(rules)
        self._taken = b""  # the bundle of the last reload
        self._prepared: tuple[ref[Engine], bytes] | None = None  # the last engine of a candidate, and its bundle
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
        """Load files and folders of policies, or one bundle, as `Engine.load` and `Engine.from_bundle` do.

        `rules` allow a reload to remove something; by default, it may remove nothing. The first policies must also pass
        their own tests, unless `tested` is false. Raises ReloadRefusedError and IdentityConfigError.
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
        """Reload from the origin. Return whether the new policies decide now; otherwise `reloads.why` and the log give
        the reason.

        `allow` permits losses for this reload: words of `ReloadRules`, or the revision of the new policies. A thread
        later logs what the new policies widen. Raises ReloadRuleError.
        """
        assert self.origin is not None, "the engine has no origin to reload from"
        once = ReloadRules.of(allow).allow
        with self._one_at_a_time:
            try:
                candidate = prepare(self.origin)
                if self.is_new(candidate):
                    self.check(candidate, once)
                    self.replace(self.engine_of(candidate, once), once)
            except ReloadRefusedError as refused:
                self.refuse(refused)
                return False
        self.gate.compare_beside(self.compared)
        return True

    def engine_of(self, candidate: Candidate, allow: frozenset[str] = frozenset()) -> Engine:
        """Return an engine for the candidate with the store, clock and log of the current engine. Raises
        ReloadRefusedError, also if the current entities were replaced in the meantime and the replacement would be
        lost.
        """
        with refusing(), self.holding_directory() as current:
            bundle = decode_bundle(candidate.bundle)
            rows = self._newest(current, bundle.kernel, candidate.directory, allow)
            engine = current.successor(bundle.kernel, directory=rows, tree=bundle.tree)
        engine.prepare(current)
        self._prepared = ref(engine), candidate.bundle
        return engine

    @contextmanager
    def holding_directory(self) -> Iterator[Engine]:
        """Hold the lock that a reload or a watcher needs to replace the current engine or its entities."""
        while True:
            current = self.current
            with current.directory_lock:
                if current is self.current:
                    yield current
                    return

    def _newest(self, current: Engine, kernel: Kernel, rows: EntityStore | None, allow: frozenset[str]) -> EntityStore:
        """Return the entities for a successor of the current engine: the candidate's `rows`, or the current rows if
        they were read later, or rows that are read again if neither can be used. Raises ReloadRefusedError.
        """
        now = current.directory
        if rows is None or rows is now:
            return now
        if now.is_older_than(rows):
            found = rows
        else:
            declared, read_for = copy_declarations(kernel.entities), copy_declarations(current.kernel.entities)
            if rows.is_older_than(now) and declared == read_for:
                return now
            again = None if self.origin is None else self.origin.directory(kernel.entities)
            if again is None:  # there are no sources to read
                return now
            found = again
        self.gate.check_rows(now, found, kernel.revision, allow)
        return found

    def is_new(self, candidate: Candidate) -> bool:
        """Return whether the candidate differs from the last accepted candidate. Rows older than the current rows are
        not used.
        """
        rows, now = candidate.directory, self.current.directory
        if candidate.bundle != self._taken or not (rows is None or rows.is_older_than(now) or rows.same_as(now)):
            return True
        self.reloads = replace(self.reloads, why=None, at=None)
        _LOG.info("nothing has changed: %s is still used", self.current.revision, extra={"event": "reload_same"})
        return False

    def check(self, candidate: Candidate, allow: frozenset[str] = frozenset()) -> None:
        """Check that nothing is lost and, with `gate`, that nothing widens, unless the rules or `allow` permit it.
        Raises ReloadRefusedError.
        """
        self.gate.check(self.current, candidate, allow)

    def replace(self, engine: Engine, allow: frozenset[str] = frozenset()) -> None:
        """Decide with this engine from now on. Histories that only its rules need start now, and histories that no rule
        needs end. Raises ReloadRefusedError as `swap` does."""
        before = self.swap(engine, allow)
        self.begin(before)

    # ── Reloads in two steps, for several processes ───────────────────────────────────────────

    def swap(self, engine: Engine, allow: frozenset[str] = frozenset()) -> Engine:
        """Decide with this engine from now on, and return the previous engine. Raises ReloadRefusedError as `install`
        does."""
        before = self.install(engine, allow)
        self.reloads = replace(self.reloads, done=self.reloads.done + 1, why=None, at=None, widens=None, proved=None)
        same = before.revision == engine.revision  # only entities or comments changed
        _LOG.info(
            "reloaded, and no rule has changed: %s" if same else "the policies were reloaded: %s", engine.revision,
            extra={"event": "reload", "revision": engine.revision, "before": before.revision},
        )  # fmt: skip
        self._write_reload(before, engine)
        if self.origin is not None:
            self.gate.swapped(before, engine)
        release_after_reload()
        return before

    def _write_reload(self, before: Engine, engine: Engine) -> None:
        """Write the reload with its changes to the log. A failure to describe the changes does not prevent the
        reload."""
        if engine.log is None:
            return
        try:
            changes = self.gate.describe_changes(before, engine)
        except Exception as error:
            changes = [f"the changes could not be described: {type(error).__name__}"]
        entities = None if before.directory is engine.directory else f"{len(engine.directory):,} rows of entities"
        engine.recorder.write_system("reload", before=before.revision, changes=changes, entities=entities)

    def install(self, engine: Engine, allow: frozenset[str] = frozenset()) -> Engine:
        """Make this engine the current engine, and return the previous engine. If the current entities were replaced
        after this engine was created as a successor, it gets the entities that were read last. Raises
        ReloadRefusedError if these cannot be used; then the current engine stays.
        """
        with refusing(), self.holding_directory() as before:
            preceding = engine.preceding_directory
            if preceding is not None and preceding is not before.directory:
                own = None if engine.directory is preceding else engine.directory
                rows = self._newest(before, engine.kernel, own, allow)
                if rows is not engine.directory:
                    engine.replace_directory(rows)
            engine.preceding_directory = None  # otherwise the engine would keep the rows alive
            self.current = engine
        prepared, self._prepared = self._prepared, None
        self._taken = prepared[1] if prepared is not None and prepared[0]() is engine else b""
        return before

    def begin(self, before: Engine) -> None:
        """Start the histories that the current rules need, after the last decision of the previous engine, which did
        not record all of them.
        """
        engine = self.current
        try:
            engine.state.stop_history(before.state.history_names - engine.state.history_names)
            engine.state.start_history(engine.decider.now)
        except StoreError as error:
            _LOG.error(
                "the store could not record which history to keep from now on: %s",
                error,
                extra={"event": "store_fails"},
            )

    def refuse(self, refused: ReloadRefusedError) -> None:
        """Record and log a refusal; the current engine stays in use."""
        self.reloads = self.reloads.with_refusal(refused)
        findings = [first_line(one) for one in refused.findings]
        self.current.recorder.write_system(
            "reload_refused", why=refused.why, reason=refused.reason.value, findings=findings
        )
        _LOG.error(
            "the policies were not reloaded, and %s still decides: %s", self.current.revision, refused,
            extra={"event": "reload_refused", "revision": self.current.revision, "why": refused.why,
                   "reason": refused.reason.value},
        )  # fmt: skip

    # ── Comparison with the previous policies ─────────────────────────────────────────────────

    def attend(self) -> None:
        """Start or finish the comparison of the last reload, without waiting."""
        self.gate.attend(self.compared)

    def compared(self, widens: int, proved: bool) -> None:
        more = int(widens > 0)
        self.reloads = replace(self.reloads, widens=widens, proved=proved, widened=self.reloads.widened + more)


def first_line(text: str) -> str:
    return text.partition("\n")[0]


@contextmanager
def refusing() -> Iterator[None]:
    """Raise ReloadRefusedError in place of an error that makes a candidate unusable."""
    from policyengine.audit.log_file import DecisionLogError
    from policyengine.behavior.folder import BehaviorFolderError

    try:
        yield
    except DecisionLogError as error:
        why = "the entities cannot be written to the decision log"
        raise ReloadRefusedError(why, [str(error)], RefusalKind.ENTITIES) from None
    except BehaviorFolderError as error:
        raise ReloadRefusedError("the learned behavior cannot be read", [str(error)]) from None
    except EntitiesError as error:
        raise refuse_entities(error) from None
    except ObserveError as error:
        raise ReloadRefusedError("an observed package or endpoint no longer exists", [str(error)]) from None
    except IdentityConfigError as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise ReloadRefusedError("the issuers do not match `--identity`", [f"{error.message}{hint}"]) from None
    except PolicyError as error:
        raise ReloadRefusedError("the bundle cannot be used", [one.render() for one in error.diagnostics]) from None
