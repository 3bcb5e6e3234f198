"""Shows what the seal of a log proves about a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.options.audit import read_checkpoint, read_keys
from policyengine.cli.output.terminal import Screen
from policyengine.time_formats import format_rfc3339

if TYPE_CHECKING:
    from policyengine.audit import DecisionRecord
    from policyengine.audit.seal.record_proof import RecordSeal

PASS_KEY = "with `--key`, pass a copy that was kept elsewhere"


@dataclass(frozen=True, slots=True)
class CheckedSeal:
    """The result of checking a record against the seal of its log. `key_given` says that the key is not from the folder
    of the seal; `required`, that a key or a checkpoint was passed, so that the record must be sealed.
    """

    seal: RecordSeal
    key_given: bool
    required: bool

    @property
    def fails(self) -> bool:
        """Whether the seal contradicts the record, or does not contain a record that must be sealed."""
        return self.seal.status == "broken" or (self.required and self.seal.status != "sealed")

    def to_dict(self) -> dict[str, Any]:
        seal, signed = self.seal, self.seal.checkpoint
        return {
            "status": seal.status.value,
            "problem": seal.problem,
            "entry": seal.entry,
            "late": seal.late,
            "unsealed": seal.unsealed,
            "checkpoint": None
            if signed is None
            else {"origin": signed.checkpoint.origin, "size": signed.size, "root": signed.root.hex()},
            "checkpoint_file_time": None if seal.written is None else format_seconds(seal.written),
            "keys": list(map(str, seal.keys)),
            "key_given": self.key_given,
            "witnesses": [{"name": key.name, "cosigned": format_seconds(at)} for key, at in seal.witnesses],
        }


def check_record_seal(
    log: Path,
    record: DecisionRecord,
    given: Sequence[str] | None,
    checkpoints: Sequence[Path] | None,
    folder: Path | None,
) -> CheckedSeal:
    """Check a record against the seal of its log. Raises CommandError."""
    from policyengine.audit.files import is_packed
    from policyengine.audit.seal.record_proof import (
        LogChangedError,
        RecordProver,
        RecordSeal,
        SealStatus,
        missing_seal,
    )
    from policyengine.audit.seal.sealed_files import default_folder

    kept = [read_checkpoint(path) for path in checkpoints or ()]
    required = bool(given or kept)
    try:
        if folder is None and is_packed(record.file):
            problem = "a packed log has no seal: name the seal of the original log with `--seal FOLDER`"
            return CheckedSeal(RecordSeal(SealStatus.NONE, problem), bool(given), required)
        folder = folder or default_folder(log)
        if not (folder / "checkpoint").exists():
            return CheckedSeal(RecordSeal(SealStatus.NONE, missing_seal(folder)), bool(given), required)
        keys, key_given = read_keys(given, folder)
        return CheckedSeal(RecordProver(log, folder, keys, kept).check(record), key_given, required)
    except LogChangedError:
        facts = (("file", str(log)),)
        raise CommandError("log", f"`{log}` was rotated while it was read", "run the command again", facts) from None
    except PermissionError as error:
        problem = f"the seal is not checked: `{error.filename}` cannot be read"
        return CheckedSeal(RecordSeal(SealStatus.NONE, problem), bool(given), required)
    except OSError as error:
        raise file_error(error.filename or log, error) from None


def print_broken_seal(screen: Screen, checked: CheckedSeal) -> None:
    """Print a warning if the seal contradicts a record, or lacks a record that must be sealed."""
    seal = checked.seal
    if seal.status == "broken":
        screen.line(("✗ the seal of the log does not prove this record: ", "bold red"), seal.problem or "")
        screen.line("  ", ("run `policyengine audit verify` to see what is wrong with the log", "dim"))
    elif checked.fails:
        screen.line(("✗ this record is not sealed", "bold red"))


def print_record_seal(screen: Screen, checked: CheckedSeal, advice: str = PASS_KEY) -> None:
    """Print what the seal proves about a record; nothing if the seal is broken, because `print_broken_seal` reports
    that. `advice` says how to check with another key.
    """
    seal, signed = checked.seal, checked.seal.checkpoint
    if seal.status == "none":
        screen.line((seal.problem or "", "dim"))
    elif seal.status == "not_yet":
        size = 0 if signed is None else signed.size
        lines = "" if seal.unsealed is None else f": {seal.unsealed:,} line{'' if seal.unsealed == 1 else 's'}"
        screen.line(("not sealed yet", "bold yellow"), f"{lines} after the last checkpoint, which covers {size:,}")
    elif seal.status == "sealed" and signed is not None:
        what = "by the statement on line" if seal.late else "as line"
        screen.line(("✓ ", "bold green"), f"sealed {what} {(seal.entry or 0) + 1:,} of {signed.size:,}")
        for note in seal_notes(checked, advice):
            screen.line("  ", (note, "dim"))


def seal_notes(checked: CheckedSeal, advice: str) -> Iterator[str]:
    seal = checked.seal
    when = "" if seal.written is None else f" at {format_seconds(seal.written)} (the time of its file)"
    yield f"checkpoint signed by {', '.join(f'{key.name}+{key.id.hex()}' for key in seal.keys)}{when}"
    for key, at in seal.witnesses:
        yield f"cosigned by {key.name} at {format_seconds(at)}"
    if not checked.key_given:
        yield f"the key is from the folder of the seal itself: {advice}"


def format_seconds(at: float) -> str:
    return format_rfc3339(datetime.fromtimestamp(int(at), UTC))
