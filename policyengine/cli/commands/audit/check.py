"""`policyengine audit check`: check whether a proof holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyengine.cli.errors import CommandError
from policyengine.cli.options.audit import read_checkpoint, read_key, read_text
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policyengine.audit.seal.notes import SignedCheckpoint, Verifier

EXIT_FALSE = 1
SHOWN = ("id", "outcome", "gate", "revision", "package")


def check(
    proof: Annotated[Path, typer.Argument(metavar="PROOF", help="The file with the proof.", show_default=False)],
    key: Annotated[
        list[str],
        typer.Option(
            "--key",
            metavar="KEY|FILE",
            help="A trusted public key of the log or of a witness, or a file with one; may be repeated.",
            show_default=False,
        ),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", metavar="FILE", help="For a proof of consistency: the old checkpoint.", show_default=False
        ),
    ] = None,
    witnesses: Annotated[
        int, typer.Option("--witnesses", min=0, help="How many witnesses must have cosigned the checkpoint.")
    ] = 0,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Check a proof without the log.

    The checkpoint in the proof must be signed by a trusted key, and the hashes must lead to this checkpoint from the
    line of the decision or from the checkpoint of `--checkpoint`. The line of the decision is then shown.

    \b
    Exit codes:
      0  the proof holds
      1  the proof does not hold, or is malformed

    \b
    Example:
      policyengine audit check decision.tlog-proof --key log.vkey
      policyengine audit check consistency.proof --checkpoint kept/checkpoint --key log.vkey
    """
    from policyengine.audit.seal.notes import NoteError
    from policyengine.audit.seal.proofs import ProofError

    keys = [read_key(each) for each in key]
    try:
        facts = check_proof(read_text(proof), keys, checkpoint, witnesses)
    except (ProofError, NoteError) as error:
        if format is OutputFormat.JSON:
            print_json({"proof": str(proof), "holds": False, "why": str(error)})
        else:
            Screen().line(("✗ ", "bold red"), f"{proof}: the proof does not hold: {error}")
        return EXIT_FALSE
    if format is OutputFormat.JSON:
        print_json({"proof": str(proof), "holds": True, **facts})
    else:
        _show(proof, facts)
    return 0


def check_proof(written: str, keys: Sequence[Verifier], checkpoint: Path | None, witnesses: int) -> dict[str, Any]:
    """Check a proof, and return what it proves. Raises ProofError, NoteError, CommandError."""
    from policyengine.audit.seal.notes import NoteError
    from policyengine.audit.seal.proofs import PROOF_START, ConsistencyProof, InclusionProof

    if written.startswith(PROOF_START):
        found = InclusionProof.parse(written)
        found.check()
        return {**check_signatures(found.signed, keys, witnesses), "index": found.index, **describe_line(found.line)}
    if checkpoint is None:
        ConsistencyProof.parse(written)
        raise CommandError(
            "usage",
            "a proof of consistency is checked against an old checkpoint",
            "pass the old checkpoint: `--checkpoint FILE`",
            code=2,
        )
    proof, old = ConsistencyProof.parse(written), read_checkpoint(checkpoint)
    try:
        old.log_keys(keys)
    except NoteError as error:
        raise NoteError(f"the checkpoint `{checkpoint}`: {error}") from None
    proof.check(old)
    return {**check_signatures(proof.signed, keys, witnesses), "since": old.size}


def check_signatures(signed: SignedCheckpoint, keys: Sequence[Verifier], witnesses: int) -> dict[str, Any]:
    """Return a checkpoint with its trusted signers as JSON. Raises ProofError if fewer than `witnesses` trusted
    witnesses cosigned it, and NoteError.
    """
    from policyengine.audit.seal.proofs import ProofError

    signers, cosigners = signed.log_keys(keys), signed.witnesses(keys)
    if len(cosigners) < witnesses:
        counted = f"{len(cosigners)} trusted witness{'' if len(cosigners) == 1 else 'es'}"
        raise ProofError(f"{counted} cosigned the checkpoint, fewer than {witnesses}")
    return {
        "origin": signed.checkpoint.origin,
        "size": signed.size,
        "keys": list(map(str, signers)),
        "witnesses": [each.name for each in cosigners],
    }


def describe_line(line: bytes) -> dict[str, Any]:
    """Return a line of a log as JSON: its text, with bytes that are not UTF-8 escaped, and its record, or None if the
    line is not a JSON object.
    """
    import msgspec

    try:
        record = msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        record = None
    return {"record": record if isinstance(record, dict) else None, "line": line.decode(errors="backslashreplace")}


def describe_request(record: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield the agent, the user, the endpoint and the rule of a record, each after its label; None stands for a value
    that the record lacks.
    """
    from policyengine.audit.record_summary import summarize

    row = summarize(record)
    yield "agent", row.agent
    yield "user", row.user
    yield "endpoint", row.target or row.endpoint
    yield "rule", row.rule


def _show(proof: Path, facts: dict[str, Any]) -> None:
    screen = Screen()
    if "since" in facts:
        what = f"the log begins with the {pluralize(facts['since'], 'line')} of the old checkpoint"
    else:
        what = f"the log has this line, number {facts['index'] + 1:,}"
    screen.line(("✓ ", "bold green"), f"{proof}: the proof holds: {what}")
    rows = [("log", f"{facts['origin']}, {pluralize(facts['size'], 'line')}"), ("signed by", ", ".join(facts["keys"]))]
    if facts["witnesses"]:
        rows.append(("cosigned by", ", ".join(facts["witnesses"])))
    record = facts.get("record") or {}
    decision = record.get("decision")
    if isinstance(decision, dict):
        rows += [("time", str(record.get("time"))), *((name, str(decision.get(name) or "-")) for name in SHOWN)]
        rows += [(name, value) for name, value in describe_request(record) if value]
    screen.table([(f"  {name}", value) for name, value in rows])
    if "line" in facts and not isinstance(decision, dict):
        screen.line("  ", facts["line"])
