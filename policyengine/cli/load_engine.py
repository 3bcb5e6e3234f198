"""Loads policies into an engine, and reports errors in requests, for the commands that decide."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.commands.check import no_policies_error
from policyengine.cli.errors import CommandError, file_error, policy_error
from policyengine.cli.output.terminal import Screen, show_progress
from policyengine.cli.request_input import RequestDocument, describe_place
from policyengine.cli.settings.file import load_settings

if TYPE_CHECKING:
    from policyengine.approvals.settings import ApprovalSettings
    from policyengine.audit import DecisionLog
    from policyengine.clock import Clock
    from policyengine.engine import Engine
    from policyengine.entities.errors import EntitiesError
    from policyengine.entities.sources import EntitySources
    from policyengine.entities.store import EntityStore
    from policyengine.kernel import Kernel
    from policyengine.stores.base import Store

MAX_LISTED_DOUBTS = 5
BUNDLE = ".policybundle"


def load_engine(
    paths: Sequence[Path],
    entities: Sequence[str] | EntitySources | None,
    trusted: Sequence[Path] | None = None,
    log: DecisionLog | None = None,
    clock: Clock | None = None,
    store: str = "memory:",
    identity: Path | None = None,
    approvals: ApprovalSettings | None = None,
    halt_file: Path | None = None,
) -> Engine:
    """Load policies, or a bundle that one of the `trusted` keys must have signed. `store` is a URL. Without
    `approvals`, the engine trusts its caller, the user of this command, with approvals. Raises CommandError."""
    from policyengine.approvals.settings import ApprovalSettings
    from policyengine.clock import utc_now
    from policyengine.diagnostics.model import PolicyError
    from policyengine.engine import Engine
    from policyengine.engine.options import EngineOptions
    from policyengine.entities.errors import EntitiesError
    from policyengine.identity.config.model import IdentityConfigError
    from policyengine.stores.base import StoreError

    clock, entities = clock or utc_now, entity_sources(paths, entities)
    bundle = _find_bundle(paths, trusted)
    options: EngineOptions = {"clock": clock, "log": log, "store": _store(store), "halt_file": halt_file}
    options["approvals"] = approvals or ApprovalSettings(trust_callers=True)
    try:
        with show_progress("reading the policies"):
            if bundle is not None:
                engine = Engine.from_bundle(bundle, keys=trusted, entities=entities, **options)
            else:
                engine = Engine.load(*paths, entities=entities, **options)
            engine.verify_credentials(identity)
    except PolicyError as error:
        raise policy_error(error) from None
    except IdentityConfigError as error:
        raise CommandError("identity", error.message, error.hint, detail=error.detail) from None
    except StoreError as error:
        raise CommandError("store", str(error), "see docs/stores.md") from None
    except EntitiesError as error:
        raise entities_error(error) from None
    except OSError as error:
        raise file_error(error.filename or paths[0], error) from None
    if not engine.packages:
        raise no_policies_error(paths)
    if entities is not None:
        _warn_unreadable_rows(engine.directory, engine.kernel, entities)
    if log is not None:
        _warn_misspelled_redactions(log, engine.kernel)
    return engine


def entity_sources(paths: Sequence[Path], entities: Sequence[str] | EntitySources | None) -> EntitySources | None:
    """Return the sources that `--entities` names. `policyengine.toml` maps the tables of databases to entities. Return
    None if `--entities` names no source. Raises CommandError.
    """
    from policyengine.entities.sources import EntitySources, is_url

    if isinstance(entities, EntitySources):
        return entities
    if not entities:
        return None
    mapping = load_settings(paths).file if paths and any(map(is_url, entities)) else None
    return EntitySources(tuple(entities), mapping)


def load_directory(paths: Sequence[Path], entities: Sequence[str], kernel: Kernel) -> EntityStore:
    """Read the rows that `--entities` names as these policies declare them, and warn about values that they cannot
    read. Raises CommandError."""
    from policyengine.entities.errors import EntitiesError

    sources = entity_sources(paths, entities)
    assert sources is not None
    try:
        with show_progress("reading the entities"):
            directory = sources.read(kernel.entities)
    except EntitiesError as error:
        raise entities_error(error) from None
    _warn_unreadable_rows(directory, kernel, sources)
    return directory


def entities_error(error: EntitiesError) -> CommandError:
    """Return a CommandError with the location: the file, and in it a member, or a row and a column."""
    facts = (
        ("code", error.code),
        ("file", error.file),
        ("member", error.member or None),
        ("row", error.row),
        ("column", error.column),
    )
    at = "" if f"`{error.member}`" in error.message else _at_member(error.member)
    return CommandError("entities", f"`{error.place}`{at}: {error.message}", error.hint, facts)


def _store(url: str) -> Store:
    from policyengine.stores.url import StoreUrlError, open_store

    try:
        return open_store(url)
    except StoreUrlError as error:
        raise CommandError("store", error.message, error.hint) from None


def _find_bundle(paths: Sequence[Path], trusted: Sequence[Path] | None) -> Path | None:
    """Return the bundle among the paths, or None. Raises CommandError."""
    bundles = [path for path in paths if path.suffix == BUNDLE]
    if bundles and len(paths) > 1:
        raise CommandError(
            "usage", "a bundle cannot be combined with other policies", "compile everything into one bundle", code=2
        )
    if trusted and not bundles:
        hint = f"compile the policies, sign the bundle, and name it: `….{BUNDLE[1:]}`"
        raise CommandError("usage", "`--trust` needs a bundle: policies themselves are not signed", hint, code=2)
    return bundles[0] if bundles else None


def _warn_unreadable_rows(directory: EntityStore, kernel: Kernel, sources: EntitySources) -> None:
    """Warn about values that a policy cannot read: rules treat them as unknown."""
    from policyengine.checker.entity_rows import check_rows

    told = list(directory.notes)
    names = ", ".join(f"`{one}`" for one in sources.unchecked)
    if names:
        told += [f"{names}: {doubt}" for doubt in check_rows(directory, kernel.entities)]
    screen = Screen(sys.stderr)
    for doubt in told[:MAX_LISTED_DOUBTS]:
        screen.warn(doubt)
    if len(told) > MAX_LISTED_DOUBTS:
        screen.warn(f"entities: {len(told) - MAX_LISTED_DOUBTS} more like these")


def _warn_misspelled_redactions(log: DecisionLog, kernel: Kernel) -> None:
    """Warn about facts to redact that look misspelled, because their values would be logged."""
    from policyengine.cli.redaction_names import misspelled_redactions

    screen = Screen(sys.stderr)
    for message in misspelled_redactions(log.redaction, kernel):
        screen.warn(message)


@contextmanager
def report_request_errors(question: RequestDocument) -> Iterator[None]:
    """Convert a RequestError to a CommandError with the file, line and member."""
    from policyengine.runtime.structure_checks import RequestError

    try:
        yield
    except RequestError as error:
        place = describe_place(question.file, question.line)
        facts = (("file", question.file), ("line", question.line), ("member", error.member or None))
        raise CommandError(
            "request", f"{place}{_at_member(error.member)}: {error.message}", error.hint, facts
        ) from None


def _at_member(member: str) -> str:
    return f" at `{member}`" if member else ""
