"""Options that the `behavior` commands share, and functions that open the folders and policies that these options
name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.load_engine import load_engine
from policyengine.cli.output.terminal import Screen
from policyengine.diagnostics.suggest import did_you_mean

if TYPE_CHECKING:
    from policyengine.behavior.events import Caller, Tagger
    from policyengine.behavior.fold import ProfileSettings
    from policyengine.behavior.folder import BehaviorFolder
    from policyengine.behavior.reader import BehaviorReader
    from policyengine.behavior.state import BehaviorState
    from policyengine.engine import Engine

PROFILE = "profile "
MAX_LISTED = 20
FOLDER_HINT = "`serve --behavior FOLDER` or `behavior learn` creates such a folder"
LOCK_HINT = "stop that server first, or name another folder"
KnownFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--behavior",
        metavar="FOLDER",
        help="The folder with learned behavior: `FILE.behavior` beside the log, unless `serve` named another one.",
        show_default=False,
    ),
]
PolicyPaths: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option("--policies", metavar="PATH", help="Policies, or a bundle; may be repeated.", show_default=False),
]
IssuerName: TypeAlias = Annotated[
    str | None, typer.Option("--issuer", metavar="NAME", help="The issuer of the caller.", show_default=False)
]
InstanceName: TypeAlias = Annotated[
    str | None, typer.Option("--instance", metavar="NAME", help="The instance of the caller.", show_default=False)
]


@contextmanager
def report_folder_errors(path: Path) -> Iterator[None]:
    """Convert a BehaviorFolderError or an OSError to a CommandError."""
    from policyengine.behavior.folder import BehaviorFolderError

    try:
        yield
    except BehaviorFolderError as error:
        raise CommandError("behavior", error.message, error.hint, (("folder", str(path)),)) from None
    except OSError as error:
        raise file_error(error.filename or path, error) from None


def open_folder(path: Path, *, create: bool = False) -> BehaviorFolder:
    """Open a folder with learned behavior. Raises CommandError."""
    from policyengine.behavior.folder import BehaviorFolder

    with report_folder_errors(path):
        if not create and not (path / "key").exists():
            raise CommandError(
                "behavior", f"`{path}` is not a folder with learned behavior", FOLDER_HINT, (("folder", str(path)),)
            )
        return BehaviorFolder(path)


def load_state(folder: BehaviorFolder) -> BehaviorState:
    """Load the model and the rows of a folder. Raises CommandError."""
    from policyengine.behavior.tracker import BehaviorTracker

    with report_folder_errors(folder.path):
        return BehaviorTracker.open(folder.path, locks=False).state


def lock_folder(folder: BehaviorFolder) -> int:
    """Lock a folder for writing, and return the file descriptor of the lock. Raises CommandError, also if a server
    holds the lock.
    """
    with report_folder_errors(folder.path):
        held = folder.lock()
    if held < 0:
        message = f"a running server keeps learned behavior in `{folder.path}`"
        raise CommandError("behavior", message, LOCK_HINT, (("folder", str(folder.path)),))
    return held


def has_server(folder: BehaviorFolder) -> bool:
    """Return whether a running server keeps learned behavior in a folder. Raises CommandError."""
    import os

    with report_folder_errors(folder.path):
        held = folder.lock()
        if held >= 0:
            os.close(held)
    return held < 0


# ── Policies ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LearningPolicies:
    """Settings of learning from policies; without policies, the defaults apply to each class."""

    engine: Engine | None = None
    settings_of: Callable[[str], ProfileSettings] = field(default_factory=lambda: default_settings)

    @property
    def revision(self) -> str:
        """The revision of the policies; empty without policies."""
        return "" if self.engine is None else self.engine.revision

    def reader(self, state: BehaviorState) -> BehaviorReader | None:
        """Return a reader of the callers of requests; None without policies."""
        from policyengine.behavior.reader import BehaviorReader
        from policyengine.behavior.tracker import BehaviorTracker
        from policyengine.compiler.endpoint_patterns import EndpointPatterns

        if self.engine is None:
            return None
        decider = self.engine.decider
        program = decider.compiled.evaluator.program
        return BehaviorReader(
            self.engine.kernel, EndpointPatterns(decider.tree), program, BehaviorTracker(state), logs=False
        )

    def endpoints(self, tagger: Tagger) -> Mapping[int, str]:
        """Return the declared endpoints by their tags."""
        from policyengine.compiler.endpoint_patterns import declared_endpoints

        if self.engine is None:
            return {}
        names = declared_endpoints(self.engine.kernel, self.engine.decider.tree)
        return {tagger.tag(name): name for name in names}


def default_settings(group: str) -> ProfileSettings:
    from policyengine.behavior.fold import ProfileSettings

    return ProfileSettings()


def load_learning_policies(paths: Sequence[Path] | None) -> LearningPolicies:
    """Load the policies that define the classes of callers. Raises CommandError."""
    from policyengine.behavior.reader import CallerClasses

    if not paths:
        return LearningPolicies()
    engine = load_engine(paths, None)
    return LearningPolicies(engine, CallerClasses(engine.kernel).settings_of)


def warn_of_profiles(engine: Engine | None, groups: Iterable[str], place: str = "with `--policies`") -> None:
    """Warn on stderr if the classes have profiles whose settings are not known. `place` says where the command line
    names policies."""
    profiles = sorted({group for group in groups if group.startswith(PROFILE)})
    if profiles and engine is None:
        named = ", ".join(f"`{name}`" for name in profiles[:3])
        Screen(sys.stderr).warn(
            f"the settings of {named} are not known, and the defaults are used: name the policies {place}"
        )


# ── Callers ───────────────────────────────────────────────────────────────────────────────────


def find_caller(state: BehaviorState, name: str, issuer: str | None, instance: str | None) -> list[Caller]:
    """Return the versions of one caller, the latest first. Raises CommandError if no caller or several callers have the
    name.
    """
    found = [
        caller
        for caller in state.rows
        if caller.agent == name and issuer in (None, caller.issuer) and instance in (None, caller.instance)
    ]
    callers = sorted({caller[:3] for caller in found})
    if not callers:
        named = [caller for caller in state.rows if caller.agent == name]
        if named:
            places = ", ".join(sorted({describe_caller(caller) for caller in named})[:MAX_LISTED])
            message = f"nothing is known about `{name}` with this issuer or instance"
            raise CommandError("caller", message, f"known are {places}")
        hint = did_you_mean(name, {caller.agent for caller in state.rows})
        other = "`behavior show` lists the callers; a running server saves what it learns each minute"
        raise CommandError("caller", f"nothing is known about `{name}`", hint or other)
    if len(callers) > 1:
        raise ambiguous_caller_error(name, callers)
    return sorted(found, key=lambda caller: state.rows[caller].row.level_at, reverse=True)


def ambiguous_caller_error(name: str, callers: Sequence[tuple[str, str, str]]) -> CommandError:
    """Return the error for the name of several callers, which are given by issuer, agent and instance."""
    from policyengine.behavior.events import Caller

    shown = "\n".join(f"  {describe_caller(Caller(*names))}" for names in callers[:MAX_LISTED])
    more = f"\n  and {len(callers) - MAX_LISTED:,} more" if len(callers) > MAX_LISTED else ""
    members = [{"issuer": one, "agent": two, "instance": three} for one, two, three in callers[:MAX_LISTED]]
    return CommandError(
        "caller", f"`{name}` is the name of {len(callers):,} callers",
        "select one with `--issuer` and `--instance`", (("callers", members),), detail=shown + more,
    )  # fmt: skip


def describe_caller(caller: Caller) -> str:
    """Return a caller in words."""
    words = [f"{caller.agent} of {caller.issuer}" if caller.issuer else caller.agent]
    words += [f"instance {caller.instance}"] if caller.instance else []
    words += [f"version {caller.version}"] if caller.version else []
    return ", ".join(words)
