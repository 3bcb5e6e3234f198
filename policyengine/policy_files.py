"""The only reader of policy files: turns files, folders and their imports into sources."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from policyengine.diagnostics.model import Diagnostic
from policyengine.file_version import FILE_CHANGED, FILE_CHANGED_HINT, FileVersion
from policyengine.source import Source, Span, is_test_file
from policyengine.syntax.text_checks import MAX_CHARACTERS, read_source

POLICY_SUFFIX = ".policy"
BUNDLE_SUFFIX = ".policybundle"
# The file that marks the root of a set of policies, which are loaded together and without other policies.
ROOT_MARKER = ".policyroot"
MAX_POLICY_BYTES = 4 * MAX_CHARACTERS  # maximum bytes, because a character takes at most four
GAP = r"(?:\s|#[^\n]*(?:\n|\Z))"
NAME = r"[a-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
HEAD = re.compile(
    rf"{GAP}*+(?:language{GAP}++[0-9]++{GAP}*+)?(?:package{GAP}++(?P<package>{NAME}){GAP}*+)?"
    rf"(?P<imports>(?:import{GAP}++{NAME}{GAP}*+(?:as{GAP}++{NAME}{GAP}*+)?)*)"
)
IMPORT = re.compile(rf"import{GAP}++({NAME})")
COMMENT = re.compile(r"#[^\n]*")


def load_sources(paths: Sequence[Path | str], *, tests: bool = True) -> tuple[list[Source], list[Diagnostic]]:
    """Load every policy in the files and folders and in the packages that they import, each once, with diagnostics of
    files that cannot be read.

    Without `tests`, files named `…_test.policy` are left out, even if the paths name one explicitly. Imported packages
    are searched below the policy root: the given folder or, for a file, the folder above its package. The checker
    reports missing packages, because it knows the location of the import.
    """
    loading = SourceLoader(tests)
    for path in map(Path, paths):
        loading.given(path)
    loading.deserted()
    loading.imported()
    return loading.sources, loading.problems


def policy_sets(paths: Sequence[Path | str]) -> list[tuple[Path, ...]]:
    """Split the paths into sets: each marked root below a folder is a set, and all other policies together are one set.
    Therefore files next to marked roots are not skipped.
    """
    together: list[Path] = []
    apart: list[tuple[Path, ...]] = []
    for path in map(Path, paths):
        below = roots_below(path)
        apart += [(root,) for root in below]
        together += files_outside_roots(path, below) if below else [path]
    return [tuple(together), *apart] if together or not apart else apart


def files_outside_roots(path: Path, roots: Sequence[Path]) -> list[Path]:
    """Return the policies in a folder that are outside all marked roots."""
    return [file for file in find_policies(path, lambda _: None) if not any(map(file.is_relative_to, roots))]


def roots_below(path: Path) -> list[Path]:
    """Return the outermost marked roots in a folder that is not inside a marked root itself."""
    if not os.path.isdir(path) or root_above(path) is not None:
        return []
    found: list[Path] = []
    for inside, folders, files in os.walk(path):
        if ROOT_MARKER in files:
            found.append(Path(inside))
        folders[:] = [] if ROOT_MARKER in files else sorted(name for name in folders if not name.startswith("."))
    return found


def root_above(path: Path) -> Path | None:
    """Return the folder itself if it is a marked root, otherwise the nearest marked root above it, or None."""
    try:
        whole = path.absolute()
    except OSError:  # the current folder was deleted
        return None
    marked = next((folder for folder in (whole, *whole.parents) if os.path.isfile(folder / ROOT_MARKER)), None)
    return None if marked is None else Path(os.path.relpath(marked)) if not path.is_absolute() else marked


@dataclass(slots=True)
class SourceLoader:
    """Loads sources. `seen` are real paths, so that links do not load a file twice; `roots` are the import roots of
    sources."""

    tests: bool = True
    sources: list[Source] = field(default_factory=list)
    problems: list[Diagnostic] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    empty: list[Path] = field(default_factory=list)
    roots: list[tuple[Source, Path, Path | None]] = field(default_factory=list)

    def given(self, path: Path) -> None:
        if below := roots_below(path):
            named = ", ".join(f"`{root.as_posix()}`" for root in below[:4]) + (", …" if len(below) > 4 else "")
            self.problems.append(
                file_diagnostic(
                    "E154", display_name(path), "this folder has several sets of policies", f"pass one of them: {named}"
                )
            )
        elif os.path.isdir(path):
            files = list(find_policies(path, self.unlisted))
            self.empty += [] if files else [path]
            for file in files:
                self.read(file, root_above(path) or path)
        else:
            self.read(path, root_above(path.parent))

    def deserted(self) -> None:
        """Report named folders without policies if other named paths have policies, because such a folder is probably
        not mounted.
        """
        if self.sources:
            why, hint = (
                "this folder contains no policy",
                "check that the folder is mounted and that the names of its files end in `.policy`",
            )
            self.problems += [file_diagnostic("E156", display_name(one), why, hint) for one in self.empty]

    def imported(self) -> None:
        for source, file, root in self.roots:  # grows during iteration
            package, imports = parse_head(source)
            for where in dict.fromkeys((root or package_root(file, package), package_root(file, package))):
                for imported_file in (file for name in imports for file in package_files(name, where, self.unlisted)):
                    self.read(imported_file, where)

    def unlisted(self, error: OSError) -> None:
        """Report a folder that cannot be listed. The folder may contain a guard, so silently skipping it could allow
        more.
        """
        message = f"this folder cannot be read: {(error.strerror or str(error)).lower()}"
        self.problems.append(file_diagnostic("E152", display_name(Path(error.filename)), message, None))

    def read(self, file: Path, root: Path | None) -> None:
        real = os.path.realpath(file) if "\0" not in str(file) else str(file)
        if real in self.seen or (is_test_file(file.name) and not self.tests):
            return
        self.seen.add(real)
        found = read_file(file)
        if isinstance(found, Diagnostic):
            self.problems.append(found)
        else:
            found = replace(found, label=source_label(found, file, root))
            self.sources.append(found)
            self.roots.append((found, file, root))


def source_label(source: Source, file: Path, root: Path | None) -> str:
    """Return the path below the policy root, which does not depend on the machine."""
    below = root or package_root(file, parse_head(source)[0])
    return file.relative_to(below).as_posix() if file.is_relative_to(below) else file.name


def read_file(file: Path) -> Source | Diagnostic:
    """Read the policy in a file; return a Diagnostic if it cannot be read."""
    name = display_name(file)
    if file.suffix == BUNDLE_SUFFIX:
        hint = "pass the policies that it was compiled from; in Python, `Engine.from_bundle` loads a bundle"
        return file_diagnostic("E152", name, "this is a bundle, not a policy", hint)
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            return file_diagnostic(
                "E152", name, "this is not a regular file", "pass a policy file or a folder of policies"
            )
        if status.st_size > MAX_POLICY_BYTES:
            message = f"this file has {status.st_size:,} bytes; the limit is {MAX_POLICY_BYTES:,}"
            return file_diagnostic("E153", name, message, "split it into several packages")
        with file.open("rb") as stream:
            before = FileVersion.of(stream.fileno())
            data = stream.read(MAX_POLICY_BYTES + 1)
            found = read_source(name, data)
            if FileVersion.of(stream.fileno()) != before:
                return file_diagnostic("E152", name, FILE_CHANGED, FILE_CHANGED_HINT)
            return renamed_bundle(name, data) or found if isinstance(found, Diagnostic) else found
    except FileNotFoundError:
        return file_diagnostic("E151", name, "the file does not exist", "paths are relative to the current folder")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return file_diagnostic("E152", name, f"this file cannot be read: {why.lower()}", None)


def renamed_bundle(name: str, data: bytes) -> Diagnostic | None:
    """Return an E152 if the data are a bundle, whose file name should end in `.policybundle`; otherwise None."""
    from policyengine.compiler.bundle.file import has_bundle_magic

    if not has_bundle_magic(data):
        return None
    hint = f"rename it to `{Path(name).stem}{BUNDLE_SUFFIX}`"
    return file_diagnostic("E152", name, f"this is a bundle, but its name does not end in `{BUNDLE_SUFFIX}`", hint)


def other_file_hint(diagnostics: Iterable[Diagnostic]) -> str | None:
    """Return a hint if a file with an error was read as a policy, although its name does not end in `.policy`;
    otherwise None.
    """
    sources = (one.span.source for one in diagnostics if one.is_error)
    name = next((one.name for one in sources if one.text and not one.name.endswith(POLICY_SUFFIX)), None)
    return None if name is None else f"`{name}` is not a `{POLICY_SUFFIX}` file: is it a policy?"


def file_diagnostic(code: str, name: str, message: str, hint: str | None) -> Diagnostic:
    return Diagnostic(code, message, Span(Source(name, ""), 0, 0), hint)


def display_name(file: Path) -> str:
    """Return the path as given, or relative to the current folder if the file is inside it."""
    try:
        return file.relative_to(Path.cwd()).as_posix() if file.is_absolute() else file.as_posix()
    except (ValueError, OSError):  # outside the current folder, or the current folder was deleted
        return file.as_posix()


def find_policies(folder: Path, unlisted: Callable[[OSError], None]) -> Iterator[Path]:
    """Yield all `.policy` files at any depth, except hidden files and files in hidden folders, in the same order on
    every system."""
    walked: set[str] = set()
    for inside, folders, files in os.walk(folder, onerror=unlisted, followlinks=True):
        real = os.path.realpath(inside)
        folders[:] = [] if real in walked else sorted(name for name in folders if not name.startswith("."))
        if real not in walked:
            yield from (Path(inside, name) for name in sorted(files) if is_policy_file(name))
        walked.add(real)


def is_policy_file(name: str) -> bool:
    return name.endswith(POLICY_SUFFIX) and not name.startswith(".")


def parse_head(source: Source) -> tuple[str | None, list[str]]:
    """Return the package that a source declares (None if it declares none), and the packages that it imports before its
    first declaration.
    """
    match = HEAD.match(source.text)
    imports = COMMENT.sub("", match["imports"]) if match else ""
    return match["package"] if match else None, list(dict.fromkeys(IMPORT.findall(imports)))


def package_root(file: Path, package: str | None) -> Path:
    """Return the folder above `acme/common.policy` or `acme/common/*.policy`; for other files, the folder
    of the file.
    """
    names = tuple(package.split(".")) if package else ()
    for parts in ((*file.parent.parts, file.stem), file.parent.parts):
        if names and parts[-len(names) :] == names:
            above = parts[: -len(names)]
            return Path(*above) if above else Path()
    return file.parent


def package_files(package: str, root: Path, unlisted: Callable[[OSError], None]) -> Iterator[Path]:
    """Yield the files of a package: a file with its name, the files in a folder with its name, or both."""
    folder = root.joinpath(*package.split("."))
    file = folder.with_name(folder.name + POLICY_SUFFIX)
    if os.path.isfile(file):
        yield file
    if os.path.isdir(folder):
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            unlisted(error)
            return
        yield from (folder / name for name in names if is_policy_file(name) and os.path.isfile(folder / name))
