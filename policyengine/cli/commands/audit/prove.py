"""`policyengine audit prove`: prove that a log contains a decision, or that it begins with the lines that an earlier
checkpoint covers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.atomic_write import refuse_to_replace_log
from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.options.audit import SealedLog, SealFolder, read_checkpoint
from policyengine.cli.output.terminal import Screen

if TYPE_CHECKING:
    from policyengine.audit.seal.proofs import ConsistencyProof, InclusionProof

FILE_HINT = "run `policyengine audit verify` to see what is wrong with the log"


def prove(
    log: SealedLog,
    id: Annotated[str | None, typer.Argument(metavar="ID", help="The ID of the decision.", show_default=False)] = None,
    since: Annotated[
        Path | None,
        typer.Option(
            "--since",
            metavar="CHECKPOINT",
            help="Prove instead that the log begins with the lines that this checkpoint covers.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the proof to a file.", show_default=False),
    ] = None,
    seal: SealFolder = None,
) -> int:
    """Prove that a decision is in the log.

    The proof has the line of the decision, the hashes that lead from it to the root of the log, and the signed
    checkpoint. It can be checked without the log: `policyengine audit check PROOF --key KEY`.

    \b
    Example:
      policyengine audit prove 01K4QJ6V1N3W8Y5T2R9ZXBCDEF --log decisions.jsonl -o decision.tlog-proof
      policyengine audit prove --since kept/checkpoint --log decisions.jsonl -o consistency.proof
    """
    if (id is None) == (since is None):
        raise CommandError("usage", "name either a decision or a checkpoint", "pass an ID, or `--since FILE`", code=2)
    if output is not None:
        refuse_to_replace_log(output, [log], seal)
    found = make_proof(log, seal, id, since)
    if output is None:
        sys.stdout.write(str(found))
        return 0
    try:
        output.write_text(str(found))
    except OSError as error:
        raise file_error(output, error) from None
    old = "" if since is None else f" --checkpoint {since}"
    Screen().line(f"wrote {output}: check it with `policyengine audit check {output}{old} --key KEY`")
    return 0


def make_proof(log: Path, seal: Path | None, id: str | None, since: Path | None) -> InclusionProof | ConsistencyProof:
    """Return the proof that a log contains the decision `id` or, with `since`, that it extends the checkpoint in the
    file `since`. Raises CommandError.
    """
    from policyengine.audit.seal.find_line import LogIndex
    from policyengine.audit.seal.notes import NoteError
    from policyengine.audit.seal.proofs import OtherLogError, ProofError, prove_consistency, prove_line
    from policyengine.audit.seal.sealed_files import SealError, default_folder
    from policyengine.audit.seal.tiles import TileError

    folder = seal or default_folder(log)
    try:
        if since is not None:
            return prove_consistency(folder, read_checkpoint(since))
        line = LogIndex(log, folder).find(id or "")
        if line is None:
            raise CommandError("decision", f"`{log}` has no decision `{id}`", None, (("file", str(log)),))
        return prove_line(folder, line.line, line.index)
    except (ProofError, NoteError, TileError, SealError) as error:
        hint = None if isinstance(error, OtherLogError) else FILE_HINT
        raise CommandError("proof", f"`{log}`: {error}", hint, (("file", str(log)),)) from None
    except OSError as error:
        raise file_error(error.filename or log, error) from None
