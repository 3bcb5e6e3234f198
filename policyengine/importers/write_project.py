"""Writes the files of an import next to existing files: all files or none, without changing any existing line.

The first import creates a project. A later import compares the API with the manifest and adds new endpoints in new
files, behind a guard that denies: no granted scope becomes wider.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from policyengine.bounded_files import read_bounded
from policyengine.importers import offers_writer, policy_writer, project_files
from policyengine.importers.coaz_mappings import declared_actions
from policyengine.importers.current_policies import (
    TakenNames,
    first_error,
    location_of,
    premature_guards,
    read_current_policies,
)
from policyengine.importers.errors import ApiImportError
from policyengine.importers.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    ImportManifest,
    OperationChange,
    endpoints_in_policies,
    entries_of,
    manifest_text,
    operation_changes,
    read_manifest,
)
from policyengine.importers.model import Api, ApiOperation, HttpTemplate
from policyengine.importers.path_overlaps import PathIndex
from policyengine.importers.reconcile_overlaps import reconcile, without_types
from policyengine.importers.sanitize import NameAllocator
from policyengine.importers.scope_plan import ImportPlan, plan_scopes
from policyengine.importers.tool_pins import pin_notes, pins_text, restrict_writers
from policyengine.policy_files import ROOT_MARKER, find_policies
from policyengine.source import Source
from policyengine.tool_pins.pin_file import PIN_FILE

SETTINGS_FILE = "policyengine.toml"
Files = dict[str, str]  # texts by path below the folder


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The result of an import. `removed` holds endpoints, each with the place where a policy still names it."""

    created: tuple[Path, ...] = ()
    new: tuple[str, ...] = ()
    changed: tuple[OperationChange, ...] = ()
    removed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    first: bool = True

    @property
    def differs(self) -> bool:
        return bool(self.new or self.changed or self.removed)


def import_policies(folder: Path, api: Api, command: str, *, check: bool = False, reviewer: str = "") -> ImportResult:
    """Write the policy of an API, or its new parts; with `check`, only report them. `command` repeats the import. The
    first import of tools pins their definitions, as reviewed by the `reviewer`.

    Raises ApiImportError before changing anything.
    """
    memory = read_manifest(folder)
    operations, notes = reconcile(api.operations)
    api = replace(api, operations=operations, notes=(*api.notes, *notes))
    if memory is None:
        if check:
            hint = "run it without `--check` first, and commit the result"
            raise ApiImportError("nothing has been imported here yet", f"`{folder.as_posix()}`", hint)
        return _create_project(folder, api, command, reviewer)
    if memory.kind != api.kind:
        hint = "a folder can contain imports of only one kind: use another folder"
        raise ApiImportError(
            f"`{memory.kind}` was imported here, but this is `{api.kind}`", f"`{folder.as_posix()}`", hint
        )
    return _update_project(folder, api, memory, check)


# ── The first import ────────────────────────────────────────────────────────────────────────────


def _create_project(folder: Path, api: Api, command: str, reviewer: str) -> ImportResult:
    if any(find_policies(folder, lambda _: None)):
        hint = "import into a new folder"
        raise ApiImportError("this folder contains policies that no import wrote", f"`{folder.as_posix()}`", hint)
    if not api.operations and not api.offers.listed:
        raise ApiImportError(_empty_api_message(api), f"`{api.source}`", "\n".join(api.notes[:5]) or None)
    run, made = policy_writer.ImportRun(api.name), plan_scopes(api.operations)
    files, notes = _policy_files(api, run, made, _entity_names(api.operations))
    files |= offers_writer.offer_files(api.offers, run)
    files["doors.policy"] = policy_writer.grants_text(api, run, made, offers_writer.offer_mays(api.offers, run))
    files["doors_test.policy"] = policy_writer.fixture_text(
        run, made, offers_writer.offer_endpoint(api.offers), offers_writer.offer_scopes(api.offers)
    )
    files = _format_files(files)
    _require_valid(_file_sources(folder, files))
    files |= {
        ROOT_MARKER: "",
        "README.md": project_files.readme_text(api, made, _api_folder(api), command),
        "request.json": project_files.sample_request(api, made),
        MANIFEST_FILE: manifest_text(ImportManifest(api.kind, api.name, 1, entries_of(api))),
    }
    if api.listings:
        files[PIN_FILE] = pins_text(api, reviewer)
    if not any((above / SETTINGS_FILE).exists() for above in (folder.absolute(), *folder.absolute().parents)):
        files[SETTINGS_FILE] = project_files.LINT_SETTINGS
    created = _write_files(folder, files)
    restrict_writers(folder / PIN_FILE)
    return ImportResult(created, tuple(entries_of(api)), notes=(*api.notes, *notes))


def _empty_api_message(api: Api) -> str:
    return "this contains no tools" if api.kind == "mcp" else "this contains no operation that a policy can name"


def _api_folder(api: Api) -> str:
    return "tools" if api.kind == "mcp" else "api"


def _entity_names(operations: Iterable[ApiOperation]) -> set[str]:
    found = {
        part.entity for one in operations if isinstance(one.endpoint, HttpTemplate) for part in one.endpoint.segments
    }
    return found - {"", "user"}


def _policy_files(
    api: Api, run: policy_writer.ImportRun, made: ImportPlan, entities: set[str]
) -> tuple[Files, list[str]]:
    """Return a file and its tests for each area, one file for token scopes, and one for entities."""
    every, (guarded, notes) = policy_writer.SampleExpectations(made), _guardable_shadows(made, run)
    names, files = NameAllocator(), Files()
    mark = "" if run.first else f"_new_{run.number}"
    for area, groups in made.areas.items():
        name = names.new(f"{_api_folder(api)}/{area.replace('.', '/')}{mark}")
        name = f"{name}_" if name.endswith("_test") else name
        own = [shadow for shadow in guarded if shadow.group in groups]
        files[f"{name}.policy"] = policy_writer.area_text(api, run, area, groups, own)
        files[f"{name}_test.policy"] = policy_writer.tests_text(run, groups, every)
    if made.carried:
        files[f"{names.new(f'tokens{mark}')}.policy"] = policy_writer.token_scopes_text(run, made.carried)
    actions = [action for one in api.operations for action in one.actions]
    others = [action for action in actions if action.type in offers_writer.VERBS]  # they would be read as resources
    declared = declared_actions(action for action in actions if action not in others) if run.first else {}
    notes += [f"`{action.written}` is left out, because it names what the server lists" for action in others]
    if declared:
        files[f"{names.new('authzen')}.policy"] = policy_writer.declared_actions_text(run, declared, entities)
    if entities:
        files[f"{names.new(f'entities{mark}')}.policy"] = policy_writer.entities_text(run, entities)
    return files, notes


def _guardable_shadows(
    made: ImportPlan, run: policy_writer.ImportRun
) -> tuple[list[policy_writer.ShadowedEndpoint], list[str]]:
    """Return the shadows that a guard can separate by token scopes, and notes on the others."""
    if not run.first:
        return [], []  # new endpoints are already behind a guard
    asked = any(group.asks for group in made.groups)
    guarded, notes = [], []
    for shadow in policy_writer.find_shadows(made):
        if asked and shadow.group.asks != shadow.behind.asks and not shadow.crossed:
            guarded.append(shadow)
        else:
            wide, narrow = shadow.behind.name, shadow.group.name
            how = "another" if shadow.crossed else "a wider"
            told = f"{how} pattern in `{wide}` also matches `{shadow.operation.key}` of `{narrow}`"
            notes.append(f"{told}: a grant of the first includes {'a part of ' * shadow.crossed}the second")
    bare = [group.name for group in made.groups if asked and not group.asks]
    if bare:
        named = ", ".join(f"`{name}`" for name in bare[:5]) + (", …" if len(bare) > 5 else "")
        notes.append(f"no OAuth scope represents {named}: tokens must carry these names, or `anyone` must grant them")
    return guarded, notes


# ── Later imports ─────────────────────────────────────────────────────────────────────────────────


def _update_project(folder: Path, api: Api, memory: ImportManifest, check: bool) -> ImportResult:
    existing = read_current_policies(folder)
    here = entries_of(api)
    changed, spoken = operation_changes(memory, api), endpoints_in_policies(existing.modules)
    unknown = {key: None for key in here if key not in memory.entries}
    new = [one for one in api.operations if one.key in unknown and one.key not in spoken]
    offered = [one for one in api.offers.listed if one.key in unknown and one.key not in spoken]
    own = tuple(f"`{key}` is already named at {spoken[key]}, which stays unchanged" for key in unknown if key in spoken)
    removed = tuple((key, spoken[key]) for key in sorted(memory.entries) if key not in here and key in spoken)
    added = (*(one.key for one in new), *(one.key for one in offered))
    notes = (*api.notes, *own, *pin_notes(folder, api))
    outcome = ImportResult((), added, tuple(changed), removed, notes, first=False)
    if check:
        return outcome
    number = memory.runs + 1
    stricter = [one for one in api.operations if one.key in {change.key for change in changed if change.stricter}]
    fixture = policy_writer.FIXTURE in existing.fixtures
    is_path = [key for key in memory.entries if not key.startswith(("TOOL ", "ACTION "))]
    known = PathIndex.of(HttpTemplate.of_key(key) for key in is_path)
    run = policy_writer.ImportRun(memory.package, number, fixture, known=known)
    api = replace(api, offers=replace(api.offers, listed=tuple(offered)))
    grows = new or stricter or offered
    files = _checked_new_files(folder, api, run, new, stricter, existing) if grows else Files()
    gone = {key for key in memory.entries if key not in here and key not in spoken}
    entries = {key: entry for key, entry in memory.entries.items() if key not in gone}
    entries |= here
    runs = number if files else memory.runs
    created = _write_files(folder, files, manifest_text(ImportManifest(memory.kind, memory.package, runs, entries)))
    return replace(outcome, created=created)


def _checked_new_files(
    folder: Path,
    api: Api,
    run: policy_writer.ImportRun,
    new: Sequence[ApiOperation],
    stricter: Sequence[ApiOperation],
    existing: TakenNames,
) -> Files:
    """Return the new files, without types if types conflict with the author's changes. Raises ApiImportError."""
    for operations in (new, [without_types(one) for one in new]):
        files = _new_files(api, run, operations, stricter, existing)
        sources = _file_sources(folder, files)
        found = first_error([*existing.sources, *sources])
        if found is None:
            allowed = premature_guards(existing.sources, sources)
            return _new_files(api, replace(run, allowed=allowed), operations, stricter, existing) if allowed else files
    assert found is not None
    said = f"the new endpoints conflict with the policies here: {found.code} {found.message}"
    raise ApiImportError(said, f"`{location_of(found)}`", "nothing was changed")


def _new_files(
    api: Api,
    run: policy_writer.ImportRun,
    new: Sequence[ApiOperation],
    stricter: Sequence[ApiOperation],
    existing: TakenNames,
) -> Files:
    made = plan_scopes(new, existing.scopes, existing.aliases, f".new_{run.number}")
    files, _ = _policy_files(api, run, made, _entity_names(new) - existing.entities)
    if new or stricter:
        files[f"{_api_folder(api)}/new_{run.number}.policy"] = policy_writer.new_guard_text(run, made.groups, stricter)
    return _format_files(files | offers_writer.offer_files(api.offers, run, existing.entities))


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


def _format_files(files: Files) -> Files:
    return {name: policy_writer.format_policy(name, text) for name, text in files.items()}


def _file_sources(folder: Path, files: Files) -> list[Source]:
    return [Source((folder / name).as_posix(), text) for name, text in files.items()]


def _require_valid(sources: Sequence[Source]) -> None:
    """Check the generated policies. Raises ApiImportError, so that no invalid policy is written."""
    found = first_error(sources)
    if found is not None:
        said = f"the generated policy is not valid: {found.code} {found.message}"
        raise ApiImportError(
            said, f"`{location_of(found)}`", "nothing was written; please report this, with the specification"
        )


def _write_files(folder: Path, files: Files, memory: str | None = None) -> tuple[Path, ...]:
    """Write new files only, all of them or none. `memory` replaces the manifest, as the last step. Raises
    ApiImportError.
    """
    targets = [folder / name for name in files]
    there = [path for path in targets if path.exists() or path.is_symlink()]
    if there:
        named = ", ".join(f"`{path.as_posix()}`" for path in there[:5]) + (", …" if len(there) > 5 else "")
        verb = "exists" if len(there) == 1 else "exist"
        raise ApiImportError(f"{named} already {verb}, so nothing was written", hint="use a new or empty folder")
    try:
        with _rollback_on_error() as made:
            for path, text in zip(targets, files.values(), strict=True):
                _write_new(path, text, made)
            if memory is not None:
                _replace_atomically(folder / MANIFEST_FILE, memory)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ApiImportError(f"{why}: nothing was written", f"`{error.filename or folder.as_posix()}`") from None
    return tuple(targets)


@contextmanager
def _rollback_on_error() -> Iterator[list[Path]]:
    """Remove the new files if an error occurs."""
    made: list[Path] = []
    try:
        yield made
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        raise


def _write_new(path: Path, text: str, made: list[Path]) -> None:
    _make_folders(path.parent, made)
    with path.open("xb") as new:
        made.append(path)
        new.write(text.encode())


def _make_folders(folder: Path, made: list[Path]) -> None:
    for directory in [*reversed(folder.parents), folder]:
        if not directory.exists():
            directory.mkdir()
            made.append(directory)


def _replace_atomically(file: Path, text: str) -> None:
    if read_bounded(file, MAX_MANIFEST_BYTES) == text.encode():
        return
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as new:
            new.write(text.encode())
        os.chmod(name, file.stat().st_mode)
        os.replace(name, file)
    finally:
        Path(name).unlink(missing_ok=True)
