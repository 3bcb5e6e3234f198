"""Arguments and options that the `audit` commands share, and functions that read their keys and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from policyengine.cli.errors import CommandError, file_error

if TYPE_CHECKING:
    from policyengine.audit.seal.notes import SignedCheckpoint, Verifier

MAX_FILE_BYTES = 1_000_000
CHECKPOINT_HINT = "a checkpoint is in the file `checkpoint` in the folder of the seal"
LogArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="LOG", help="The decision log: a file that `serve --log` wrote.", show_default=False)
]
SealedLog: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--log", metavar="FILE", help="The decision log: a file that `serve --log` wrote.", show_default=False
    ),
]
SealFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option("--seal", metavar="FOLDER", help="The folder of the seal. [default: LOG.tlog]", show_default=False),
]
PublicKeys: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="KEY|FILE",
        help="A trusted public key of the log or of a witness, or a file with one; may be repeated. "
        "[default: LOG.tlog/vkey]",
        show_default=False,
    ),
]
KeptCheckpoints: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="A checkpoint that was kept elsewhere: the log must begin with the lines that it covers.",
        show_default=False,
    ),
]


def read_keys(given: Sequence[str] | None, folder: Path) -> tuple[list[Verifier], bool]:
    """Return the trusted keys, and whether they were given instead of read from the folder of the seal. Raises
    CommandError.
    """
    if given:
        return [read_key(text) for text in given], True
    path = folder / "vkey"
    if not path.exists():
        hint = "pass the public key of the log: `--key KEY`"
        raise CommandError("key", f"the log has no public key: `{path}` is missing", hint, (("file", str(path)),))
    return [read_key(str(path))], False


def read_key(given: str) -> Verifier:
    """Return a public key, given as its text or as the name of its file. Raises CommandError."""
    from policyengine.audit.seal.notes import NoteError, Verifier

    path = Path(given)
    is_file = "+" not in given or path.exists()
    text = read_text(path) if is_file else given
    try:
        return Verifier.parse(text)
    except NoteError as error:
        name = f"`{given}`" if is_file else "the key"
        hint = "a public key is in the file `vkey` in the folder of the seal"
        problem = str(error)
        said = f" {problem[3:]}" if problem.startswith("it is") else f" is not a public key: {problem}"
        raise CommandError("key", f"{name}{said}", hint) from None


def read_checkpoint(path: Path) -> SignedCheckpoint:
    """Read a checkpoint without verifying its signatures. Raises CommandError."""
    from policyengine.audit.seal.notes import NoteError, SignedCheckpoint

    try:
        return SignedCheckpoint.parse(read_text(path))
    except NoteError as error:
        raise CommandError(
            "checkpoint", f"`{path}` is not a checkpoint: {error}", CHECKPOINT_HINT, (("file", str(path)),)
        ) from None


def read_text(path: Path) -> str:
    """Read a text file of at most 1 MB. Raises CommandError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise CommandError("file", f"`{path}` is larger than 1 MB", None, (("file", str(path)),))
        return raw.decode()
    except UnicodeDecodeError:
        raise CommandError("file", f"`{path}` is not text", None, (("file", str(path)),)) from None
    except OSError as error:
        raise file_error(path, error) from None
