"""An engine for a server: loaded as the options say, tested, observed, and reloadable."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.errors import CommandError
from policyengine.cli.load_engine import entities_error, entity_sources, load_engine
from policyengine.cli.options.log import LogOptions, open_log, report_log_errors
from policyengine.cli.options.observe import ObserveOptions, start_observing
from policyengine.cli.options.serve import ReloadGateMode
from policyengine.cli.output.terminal import Screen, show_progress
from policyengine.cli.reload_rules import reload_rules, settings_file
from policyengine.cli.settings.file import ProjectSettings, load_settings
from policyengine.cli.settings.policy_names import check_issuer_names, unknown_approvers
from policyengine.cli.webhook_setup import open_webhooks

if TYPE_CHECKING:
    from policyengine.engine import Engine
    from policyengine.entities.sources import EntitySources, SourcesStamp
    from policyengine.entities.watch import EntityWatcher
    from policyengine.reload import ReloadableEngine, ReloadRules
    from policyengine.webhooks.dispatcher import WebhookDispatcher


BEHAVIOR_SUFFIX = ".behavior"


@dataclass(frozen=True, slots=True)
class ReloadOptions:
    """The options of reloads."""

    allow: Sequence[str]
    gate: ReloadGateMode
    compare: float
    watch: bool


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """The options of an engine to serve: its policies and entities, its store and its logs."""

    paths: Sequence[Path]
    entities: Sequence[str] | None
    identity: Path | None
    trust: Sequence[Path] | None
    store: str
    behavior: Path | None
    halt_file: Path | None
    test: bool
    log: LogOptions
    observe: ObserveOptions
    reload: ReloadOptions
    public_url: str | None = None  # for links to approvals


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine, and the sources from which it was loaded."""

    engine: Engine
    settings: ProjectSettings
    rules: Callable[[], ReloadRules]
    sources: EntitySources | None
    stamp: SourcesStamp | None
    webhooks: WebhookDispatcher | None = None


@dataclass(frozen=True, slots=True)
class ServedEngine:
    """An engine that reloads its policies and follows its entities. `tests` is the number of requests in the policies'
    tests, None if they were not run."""

    held: ReloadableEngine
    following: EntityWatcher | None
    tests: int | None


def load_for_serving(setup: EngineSetup) -> LoadedEngine:
    """Load the engine with its log, store and entities. Raises CommandError."""
    settings = load_settings(setup.paths)
    approvals = settings.approvals(setup.public_url)
    rules = reload_rules(setup.paths, setup.reload.allow, setup.reload.gate, setup.reload.compare)
    with report_log_errors(setup.log.path):
        sources = entity_sources(setup.paths, setup.entities)
        stamp = sources.stamp() if sources is not None else None
        log = open_log(setup.log)
        webhooks = open_webhooks(settings, setup.store, setup.log.path, setup.public_url)
        approvals = replace(approvals, listener=webhooks)
        engine = load_engine(
            setup.paths, sources, setup.trust, log, store=setup.store, identity=setup.identity,
            approvals=approvals, halt_file=setup.halt_file,
        )  # fmt: skip
    require_readable_halts(engine)
    check_issuer_names(settings, engine.kernel.issuers)
    for message, hint in unknown_approvers(settings, engine.kernel):
        Screen(sys.stderr).warn(message if hint is None else f"{message}: {hint}")
    use_behavior(engine, behavior_folder(setup, engine))
    warn_of_foreign_behavior(engine)
    return LoadedEngine(engine, settings, rules, sources, stamp, webhooks)


def log_unmatched_people(loaded: LoadedEngine) -> None:
    """Log a warning for each rule about people that no user, or too few users, of the entities match. Without entities,
    log nothing."""
    if loaded.sources is None:
        return
    from policyengine.cli.approver_warnings import find_lacking_approvers, unknown_role_attributes

    kernel, directory = loaded.engine.kernel, loaded.engine.directory
    approvers = ((one.message, one.hint) for one in find_lacking_approvers(kernel, directory))
    for message, hint in (*approvers, *unknown_role_attributes(loaded.settings.console, kernel, directory)):
        text = message if hint is None else f"{message}: {hint}"
        logging.getLogger("policyengine").warning("%s", text, extra={"event": "people_unmatched"})


def require_readable_halts(engine: Engine) -> None:
    """Refuse to start if halts cannot be read. Raises CommandError."""
    from policyengine.halts.file import FILE_HINT, FILE_NAME

    for name, why in engine.halting.unread:
        hint = FILE_HINT if name.startswith(FILE_NAME) else None
        raise CommandError("halt", f"the halts in {name} cannot be read: {why}", hint)


def behavior_folder(setup: EngineSetup, engine: Engine) -> Path | None:
    """Return the folder of learned behavior: the one that the options name, otherwise the folder next to the log; None
    without a log, and if a shared store keeps learned behavior.
    """
    log = None if engine.state.is_remote else setup.log.path
    return setup.behavior or (None if log is None else log.with_name(log.name + BEHAVIOR_SUFFIX))


def use_behavior(engine: Engine, folder: Path | None) -> None:
    """Continue with the learned behavior in a folder, once the policies read it. Raises CommandError."""
    from policyengine.behavior.folder import BehaviorFolderError

    try:
        engine.use_behavior(folder)
    except BehaviorFolderError as error:
        raise CommandError("behavior", error.message, error.hint, (("folder", str(folder)),)) from None


def warn_of_foreign_behavior(engine: Engine) -> None:
    """Warn on stderr about a folder of learned behavior that comes from other policies."""
    if engine.behavior is None:
        return
    from policyengine.cli.behavior_warnings import FOREIGN_HINT, foreign_behavior_warning

    warning = foreign_behavior_warning(engine)
    if warning is not None:
        Screen(sys.stderr).warn(f"{warning}: {FOREIGN_HINT}")


def prepare_serving(setup: EngineSetup, loaded: LoadedEngine) -> ServedEngine:
    """Run the policies' tests if requested, start observe mode, and make the engine reloadable. Raises CommandError."""
    from policyengine.reload import ReloadableEngine, ReloadSource

    engine, sources = loaded.engine, loaded.sources
    tests = require_passing_tests(setup.paths, engine) if setup.test else None
    start_observing(engine, setup.observe, loaded.settings.observe)
    keys = None if setup.trust is None else tuple(setup.trust)
    origin = ReloadSource(tuple(setup.paths), sources, keys, settings=settings_file(setup.paths))
    held = ReloadableEngine(engine, origin, loaded.rules)
    following = build_entity_watcher(held, sources, loaded.stamp, files=not setup.reload.watch, rules=loaded.rules)
    return ServedEngine(held, following, tests)


def build_entity_watcher(
    held: ReloadableEngine,
    sources: EntitySources | None,
    stamp: SourcesStamp | None,
    files: bool,
    rules: Callable[[], ReloadRules],
) -> EntityWatcher | None:
    """Return a watcher that reads entities again when they change; None without entities. With `--watch`, their files
    are reloaded together with the policies (`files` is false). Raises CommandError.
    """
    from policyengine.entities.errors import EntitiesError
    from policyengine.entities.watch import EntityWatcher
    from policyengine.reload.policy_inventory import ENTITIES

    if sources is None:
        return None
    try:
        return EntityWatcher(
            sources, lambda: held.current, stamp=stamp, files=files, may_lose=lambda: ENTITIES in rules().allow,
            tell=lambda fails, why: held.current.recorder.write_directory_state(fails, why),
        )  # fmt: skip
    except EntitiesError as error:
        raise entities_error(error) from None


def require_passing_tests(paths: Sequence[Path], engine: Engine) -> int:
    """Run the policies' own tests, all of which must pass, as before a reload. Return the number of requests. Raises
    CommandError.
    """
    from policyengine.compiler.bundle.file import decode_bundle
    from policyengine.reload import ReloadRefusedError, ReloadSource
    from policyengine.reload.candidate import MAX_LISTED_FINDINGS
    from policyengine.reload.prepare_process import prepare_in_subprocess

    origin = ReloadSource(tuple(paths))
    if origin.bundle is not None:
        hint = "run `policyengine test` before compiling, and omit `--test`"
        raise CommandError("usage", "a bundle contains no tests", hint, code=2)
    try:
        with show_progress("running the tests"):
            found = prepare_in_subprocess(origin)
    except ReloadRefusedError as refused:
        hint = f"`policyengine test {shlex.join(map(str, paths))}` shows every failure; omit `--test` to skip the tests"
        detail = "\n\n".join(refused.findings[:MAX_LISTED_FINDINGS])
        raise CommandError("tests", f"nothing is served: {refused.why}", hint, detail=detail) from None
    if decode_bundle(found.bundle).kernel.revision != engine.revision:
        raise CommandError("tests", "the policies changed while they were being read", "start the server again")
    return found.tests
