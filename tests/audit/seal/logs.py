"""Sealed logs for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from policyengine.audit import DecisionLog, Rotation
from policyengine.audit.rotation import NO_ROTATION
from policyengine.audit.seal.notes import SignedCheckpoint, Verifier
from policyengine.audit.seal.options import SealOptions
from policyengine.audit.seal.verification import Verification
from policyengine.audit.seal.verify import verify_log

NEVER = 3_600.0  # seconds between checkpoints: tests seal by themselves


def open_sealed(path: Path, rotation: Rotation = NO_ROTATION, key: Path | None = None) -> DecisionLog:
    return DecisionLog(path, rotation=rotation, seal=SealOptions(key=key, interval=NEVER))


def write_lines(log: DecisionLog, count: int, begin: int = 0, size: int = 0) -> None:
    """Write token events, which are the shortest lines."""
    for number in range(begin, begin + count):
        assert log.note("issued", {"jti": f"t{number}", "task": {"id": "x" * size}}, 1_800_000_000 + number)


def sealed_log(path: Path, count: int = 10, size: int = 0) -> Path:
    log = open_sealed(path)
    write_lines(log, count, size=size)
    log.close()
    return path


def folder(path: Path) -> Path:
    return path.with_name(path.name + ".tlog")


def key_of(path: Path) -> Verifier:
    return Verifier.parse((folder(path) / "vkey").read_text())


def checkpoint_of(path: Path) -> SignedCheckpoint:
    return SignedCheckpoint.parse((folder(path) / "checkpoint").read_bytes())


def verified(path: Path, *kept: SignedCheckpoint, keys: Sequence[Verifier] = ()) -> Verification:
    return verify_log(path, list(keys) or [key_of(path)], checkpoints=kept)


def problems(path: Path, *kept: SignedCheckpoint, keys: Sequence[Verifier] = ()) -> list[str]:
    return [str(each).replace(f"{path.parent}/", "") for each in verified(path, *kept, keys=keys).problems]
