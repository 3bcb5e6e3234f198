"""`policyengine audit verify`: verify that a log was not changed since it was sealed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.options.audit import KeptCheckpoints, PublicKeys, SealFolder, read_checkpoint, read_key, read_keys
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.record_seal import PASS_KEY
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json, show_progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policyengine.audit.seal.notes import SignedCheckpoint
    from policyengine.audit.seal.verification import Verification

EXIT_TAMPERED = 1
MEBIBYTE = 1 << 20


def verify(
    logs: Annotated[
        list[Path],
        typer.Argument(metavar="LOG", help="Decision logs, each with its rotated files beside it.", show_default=False),
    ],
    checkpoint: KeptCheckpoints = None,
    key: PublicKeys = None,
    seal: SealFolder = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Verify that a log was not changed since it was sealed.

    Every sealed line must be unchanged and in its original place, and the signed checkpoint must cover it. The first
    line that differs is reported. Without `--key`, the key is read from the folder of the seal: keep a copy of the key
    and of checkpoints elsewhere, because an attacker who can replace the log can also replace that folder.

    \b
    Exit codes:
      0  every log is whole
      1  a log was tampered with, is damaged or is not sealed

    \b
    Example:
      policyengine audit verify decisions.jsonl
      policyengine audit verify decisions.jsonl --key log.vkey --checkpoint kept/checkpoint
    """
    if seal is not None and len(logs) > 1:
        raise CommandError("usage", "`--seal` needs a single log", "verify the logs one by one", code=2)
    from policyengine.audit.seal.notes import ED25519

    kept = [read_checkpoint(path) for path in checkpoint or ()]
    results = list(_verify_logs(logs, key, seal, kept))
    checked = [result for result, _ in results]
    unused = unused_origins([each.checkpoint.origin for each in kept], checked)
    unused_keys = unused_origins([each.name for text in key or () if (each := read_key(text)).kind == ED25519], checked)
    if format is OutputFormat.JSON:
        logs_told = [describe(result, pinned) for result, pinned in results]
        print_json({"logs": logs_told, "unused_checkpoints": unused, "unused_keys": unused_keys})
    else:
        for result, pinned in results:
            _show(result, pinned)
        for origin in unused:
            Screen().line(
                ("✗ ", "bold red"), f"none of the logs is `{origin}`, to which a checkpoint of `--checkpoint` belongs"
            )
        for origin in unused_keys:
            Screen().line(("✗ ", "bold red"), f"none of the logs is `{origin}`, to which a key of `--key` belongs")
    return 0 if all(each.is_whole for each in checked) and not (unused or unused_keys) else EXIT_TAMPERED


def _verify_logs(
    logs: Sequence[Path], given: Sequence[str] | None, seal: Path | None, kept: Sequence[SignedCheckpoint]
) -> Iterator[tuple[Verification, bool]]:
    """Yield the result for each log, and whether its keys were given rather than read from its seal. Raises
    CommandError.
    """
    from policyengine.audit.files import log_files
    from policyengine.audit.seal.sealed_files import default_folder
    from policyengine.audit.seal.verify import verify_log

    for log in logs:
        folder = seal or default_folder(log)
        try:
            size = sum(file.stat().st_size for file in log_files(log))
            keys, pinned = read_keys(given, folder) if folder.exists() or given else ([], False)
            mine = kept if len(logs) == 1 else [each for each in kept if is_of(each, folder)]
            with show_progress(f"verifying {log}", size // MEBIBYTE or None) as advance:
                read = 0

                def progress(more: int) -> None:
                    nonlocal read
                    for _ in range((read + more) // MEBIBYTE - read // MEBIBYTE):
                        advance()
                    read += more

                yield verify_log(log, keys, folder=folder, checkpoints=mine, progress=progress), pinned
        except OSError as error:
            raise file_error(error.filename or log, error) from None


def is_of(kept: SignedCheckpoint, folder: Path) -> bool:
    """Return whether a checkpoint belongs to the log with this seal."""
    from policyengine.audit.seal.notes import NoteError, SignedCheckpoint
    from policyengine.audit.seal.tiles import read_file

    try:
        return SignedCheckpoint.parse(read_file(folder / "checkpoint")).checkpoint.origin == kept.checkpoint.origin
    except (OSError, NoteError):
        return False


def unused_origins(given: Sequence[str], results: Sequence[Verification]) -> list[str]:
    """Return the origins in `given` that none of several logs has, sorted: another log may have replaced the log with
    such an origin. For a single log, the result is empty, because verifying it reports them.
    """
    if len(results) == 1:
        return []
    origins = {result.checkpoint.checkpoint.origin for result in results if result.checkpoint is not None}
    return sorted({*given} - origins)


def describe(result: Verification, pinned: bool) -> dict[str, Any]:
    """Return the result as JSON."""
    signed = result.checkpoint
    return {
        "log": str(result.path),
        "whole": result.is_whole,
        "sealed": result.size,
        "unsealed": result.unsealed,
        "deleted": result.deleted,
        "late": result.late,
        "torn": result.torn,
        "checkpoint": None
        if signed is None
        else {"origin": signed.checkpoint.origin, "size": signed.size, "root": signed.root.hex()},
        "keys": list(map(str, result.keys)),
        "key_given": pinned,
        "witnesses": [key.name for key in result.witnesses],
        "problems": [
            {
                "kind": each.kind.value, "message": each.message, "entry": each.entry, "line": each.line,
                "file": None if each.file is None else str(each.file),
            }
            for each in result.problems
        ],
    }  # fmt: skip


def _show(result: Verification, pinned: bool) -> None:
    screen = Screen()
    for problem in result.problems:
        screen.line(("✗ ", "bold red"), str(problem))
    if result.is_whole:
        screen.line(("✓ ", "bold green"), f"{result.path}: whole: {lines(result.size)} sealed")
    for note in notes(result, pinned):
        screen.line("  ", (note, "dim"))


def notes(result: Verification, pinned: bool) -> Iterator[str]:
    """Yield notes about a result in words. `pinned` is whether the keys were given."""
    if result.deleted and result.is_whole:
        yield f"{lines(result.deleted)} of them were in files that `--log-keep` deleted"
    if result.late:
        yield f"{lines(result.late)} written to a file after its rotation, and sealed by later lines"
    if result.unsealed:
        yield f"{lines(result.unsealed)} after the last checkpoint, not sealed yet"
    if result.torn:
        yield "the last line is incomplete, as after a crash"
    if result.keys:
        yield f"signed by {', '.join(f'{key.name}+{key.id.hex()}' for key in result.keys)}"
    if result.witnesses:
        size = 0 if result.cosigned is None else result.cosigned.size
        yield f"{lines(size)} cosigned by {', '.join(key.name for key in result.witnesses)}"
    if result.keys and not pinned:
        yield f"the key is from the folder of the seal itself: {PASS_KEY}"


def lines(number: int) -> str:
    return f"{number:,} line{'' if number == 1 else 's'}"
