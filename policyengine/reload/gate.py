"""The gate of reloads: it compares a candidate with the current policies for losses and, if required, for widenings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from threading import Lock, Thread
from typing import TYPE_CHECKING, TypeAlias

from policyengine import __version__
from policyengine.compiler.bundle.file import decode_bundle, write_bundle
from policyengine.diagnostics.model import PolicyError
from policyengine.reload.candidate import Candidate, RefusalKind, ReloadRefusedError
from policyengine.reload.comparison import MAX_LISTED_WIDENINGS, ComparisonProcess, PolicyComparison
from policyengine.reload.policy_inventory import Loss, PolicyInventory, lost_rows, summarize_losses
from policyengine.reload.rules import UNPROVED, WIDENING, ReloadRules

if TYPE_CHECKING:
    from policyengine.engine import Engine
    from policyengine.entities.store import EntityStore

MAX_CACHED_BUNDLES = 4  # maximum number of cached bundles, of current policies and candidates
_LOG = logging.getLogger("policyengine")
ComparisonCallback: TypeAlias = Callable[[int, bool], None]


class ReloadGate:
    """Checks candidates before they become current, and compares old and new policies after a reload."""

    def __init__(self, rules: Callable[[], ReloadRules]) -> None:
        self._rules = rules
        self._guard = Lock()
        self._bundles: dict[str, bytes] = {}
        self._inventories: dict[str, PolicyInventory] = {}
        # Results of comparisons made before a swap.
        self._results: dict[tuple[str, str], PolicyComparison] = {}
        self._pending: tuple[Engine, Engine] | None = None
        self._running: tuple[tuple[Engine, Engine], ComparisonProcess] | None = None
        self._closed = False

    # ── Before a swap ─────────────────────────────────────────────────────────────────────────

    def check(self, engine: Engine, candidate: Candidate, once: frozenset[str]) -> None:
        """Check a candidate against the rules. Raises ReloadRefusedError."""
        given = self._rules()
        rules = ReloadRules(given.allow | once, given.gate, given.seconds)
        revision = self.remember(candidate)
        same = revision == engine.revision
        losses = [] if same else list(self._inventory(engine).losses(candidate.inventory))
        if candidate.directory is not None and not candidate.directory.is_older_than(engine.directory):
            losses += lost_rows(engine.directory, candidate.directory)
        refuse_losses(rules, losses, revision)
        if rules.gate and not same:
            self._hold(engine, candidate, revision, rules)

    def check_rows(self, before: EntityStore, after: EntityStore, revision: str, once: frozenset[str]) -> None:
        """Check entity rows that do not come from a checked candidate. Raises ReloadRefusedError."""
        losses = lost_rows(before, after)
        if losses:
            refuse_losses(ReloadRules(self._rules().allow | once), losses, revision)

    def _hold(self, engine: Engine, candidate: Candidate, revision: str, rules: ReloadRules) -> None:
        """Require a proof that the candidate widens nothing. Raises ReloadRefusedError."""
        found = self._compared(engine, candidate, revision, rules.seconds)
        if found.widenings and not rules.allows(WIDENING, revision):
            findings = [one.words for one in found.widenings]
            why = describe_widenings(len(findings))
            raise ReloadRefusedError(why, findings, RefusalKind.WIDENING, allow_hint([WIDENING], revision))
        if found.unproved and not rules.allows(UNPROVED, revision):
            why = "it is not proved that the new policies allow no more than before"
            raise ReloadRefusedError(why, found.unproved, RefusalKind.UNPROVED, allow_hint([UNPROVED], revision))

    def _compared(self, engine: Engine, candidate: Candidate, revision: str, seconds: float) -> PolicyComparison:
        """Compare the policies, or return the cached result, for example if the operator allows a candidate that was
        refused before."""
        key = engine.revision, revision
        if not seconds:
            return PolicyComparison((), ("policies are not compared: `compare` under `[reload]` is 0",))
        if key not in self._results:
            found = ComparisonProcess(self._bundle(engine), candidate.bundle, seconds).wait()
            self._results = {key: found}
        return self._results[key]

    def remember(self, candidate: Candidate) -> str:
        """Cache the bundle and the inventory of a candidate, and return its revision. Raises ReloadRefusedError."""
        try:
            revision = decode_bundle(candidate.bundle).kernel.revision
        except PolicyError as error:
            raise ReloadRefusedError("the bundle cannot be used", [one.render() for one in error.diagnostics]) from None
        self._bundles[revision], self._inventories[revision] = candidate.bundle, candidate.inventory
        for known in (self._bundles, self._inventories):
            while len(known) > MAX_CACHED_BUNDLES:
                del known[next(iter(known))]
        return revision

    def _inventory(self, engine: Engine) -> PolicyInventory:
        if engine.revision not in self._inventories:
            self._inventories[engine.revision] = PolicyInventory.of(engine.kernel, engine.sources)
        return self._inventories[engine.revision]

    def _bundle(self, engine: Engine) -> bytes:
        if engine.revision not in self._bundles:
            self._bundles[engine.revision] = write_bundle(engine.kernel, __version__)
        return self._bundles[engine.revision]

    def describe_changes(self, before: Engine, after: Engine) -> list[str]:
        """Return descriptions of the additions, changes and removals of the new policies."""
        if before.revision == after.revision:
            return []
        return list(self._inventory(before).changes(self._inventory(after)))

    # ── After a swap ──────────────────────────────────────────────────────────────────────────

    def swapped(self, before: Engine, after: Engine) -> None:
        """Schedule a comparison. Swaps that are still waiting for a comparison are compared as a single step."""
        with self._guard:
            if not self._closed:
                self._pending = (before if self._pending is None else self._pending[0], after)

    @property
    def busy(self) -> bool:
        return self._pending is not None or self._running is not None

    def attend(self, tell: ComparisonCallback) -> None:
        """Start a scheduled comparison, or take the result of a finished one, without waiting."""
        with self._guard:
            if self._running is not None:
                pair, process = self._running
                found = process.poll()
                if found is not None:
                    self._running = None
                    log_comparison(pair, found, tell)
            if self._running is None and self._pending is not None:
                pair, self._pending = self._pending, None
                self._begin(pair, tell)

    def _begin(self, pair: tuple[Engine, Engine], tell: ComparisonCallback) -> None:
        before, after = pair
        known, seconds = self._results.get((before.revision, after.revision)), self._seconds()
        if before.revision == after.revision:
            tell(0, True)
        elif known is not None:
            log_comparison(pair, known, tell)
        elif seconds:
            try:
                process = ComparisonProcess(self._bundle(before), self._bundle(after), seconds)
            except OSError as error:
                log_comparison(pair, PolicyComparison((), (f"no process could be started: {error}",)), tell)
            else:
                self._running = pair, process

    def _seconds(self) -> float:
        try:
            return self._rules().seconds
        except ReloadRefusedError:
            return 0.0

    def compare_beside(self, tell: ComparisonCallback) -> None:
        """Run the scheduled comparison in a thread, for callers that do not call `attend`."""
        if self.busy:
            Thread(target=self._compare, args=(tell,), name="comparing policies", daemon=True).start()

    def _compare(self, tell: ComparisonCallback) -> None:
        while self.busy:
            self.attend(tell)
            running = self._running
            if running is not None:
                running[1].join()

    def close(self) -> None:
        """Stop a running comparison, and start no more."""
        with self._guard:
            self._closed = True
            if self._running is not None:
                self._running[1].stop()
            self._running = self._pending = None


def refuse_losses(rules: ReloadRules, losses: Collection[Loss], revision: str) -> None:
    """Raise ReloadRefusedError if the rules do not allow one of the losses."""
    refused = rules.refused(losses, revision)
    if refused:
        raise ReloadRefusedError(
            summarize_losses(refused), [loss.words for loss in refused], RefusalKind.REMOVED,
            allow_hint(sorted({loss.kind for loss in refused}), revision),
        )  # fmt: skip


def log_comparison(pair: tuple[Engine, Engine], found: PolicyComparison, tell: ComparisonCallback) -> None:
    """Log each widening, and whether the comparison was complete."""
    before_engine, after_engine = pair
    before, after = before_engine.revision, after_engine.revision
    named = {"revision": after, "before": before}
    for widening in found.widenings[:MAX_LISTED_WIDENINGS]:
        more = {
            "rule": widening.rule,
            "places": list(widening.places),
            "change": widening.change,
            "request": widening.request,
        }
        _LOG.warning("the reload allows more: %s", widening.words, extra={"event": "reload_widens", **named, **more})
    many, open_ = len(found.widenings), len(found.unproved)
    words = describe_widenings(many) if many else "no widening was found" if open_ else "nothing more is allowed"
    proved = "this is proved" if not open_ else f"not proved for: {'; '.join(found.unproved[:3])}"
    listed = list(found.unproved[:MAX_LISTED_WIDENINGS])
    _LOG.info(
        "compared with the previous policies: %s; %s",
        words,
        proved,
        extra={"event": "reload_compared", **named, "widens": many, "unproved": listed},
    )
    after_engine.recorder.write_system(
        "reload_compared", before=before, widens=[one.words for one in found.widenings], unproved=listed,
        proved=not found.unproved,
    )  # fmt: skip
    tell(many, not found.unproved)


def describe_widenings(many: int) -> str:
    return f"{many:,} {'change allows' if many == 1 else 'changes allow'} more requests than before"


def allow_hint(words: list[str], revision: str) -> str:
    always = ", ".join(f"`{word}`" for word in words)
    return (
        f'if this is intended, write `allow = ["{revision}"]` under `[reload]` in `policyengine.toml`, which allows '
        f"only these policies, and send SIGHUP (in Python: `reload(allow=[…])`), or restart; {always} always allows it"
    )
