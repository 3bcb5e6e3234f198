"""Opens the decision log of a command that decides, as the options say, and reports its errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.errors import CommandError
from policyengine.cli.options.log_rotation import parse_rotation
from policyengine.cli.options.serve import LogFailureMode, LogSyncMode
from policyengine.cli.output.terminal import Screen

if TYPE_CHECKING:
    from policyengine.audit import DecisionLog
    from policyengine.audit.seal.options import SealOptions, WitnessOptions
    from policyengine.audit.sinks.sink_set import SinkOptions

SEAL_OFF = "off"
SPOOL_FILE = "records.jsonl"


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The options of the decision log."""

    path: Path | None
    on_failure: LogFailureMode
    redact: Sequence[str] | None
    rotate: Sequence[str] | None
    keep: int | None
    compress: bool
    sync: LogSyncMode
    seal: str | None
    key: Path | None
    checkpoint_urls: Sequence[str] | None
    witnesses: Sequence[str] | None
    sinks: Sequence[str] | None
    spool: Path | None

    @property
    def concern_the_seal(self) -> bool:
        """Whether one of the options is about the seal."""
        return bool(self.key or self.checkpoint_urls or self.witnesses)

    @property
    def writes_stdout(self) -> bool:
        """Whether records are written to the standard output, where the command must then print nothing else."""
        return any(sink.startswith("stdout:") for sink in self.sinks or ())


def open_log(asked: LogOptions) -> DecisionLog | None:
    """Open the decision log or, if there are sinks but no `--log`, their spool; return None with neither. Raises
    CommandError and DecisionLogError.
    """
    from policyengine.audit import DecisionLog, Rotation

    rotation, redact = parse_rotation(asked.rotate or (), asked.keep, asked.compress), asked.redact or ()
    sinks = parse_sink_options(asked)
    if asked.path is None and sinks is not None:
        return open_spool(asked, sinks)
    if asked.path is None:
        plain = rotation == Rotation() and asked.sync is LogSyncMode.NEVER and asked.on_failure is LogFailureMode.DENY
        if redact or not plain or asked.seal or asked.concern_the_seal:
            message = "options of the decision log are set, but there is no decision log"
            raise CommandError("usage", message, "name its file: `--log decisions.jsonl`", code=2)
        return None
    found = DecisionLog(
        asked.path,
        on_failure=asked.on_failure.value,
        redact=redact,
        rotation=rotation,
        sync=asked.sync.value,
        seal=seal_options(asked),
        sinks=sinks or (),
    )
    if found.others_may_read:
        warning = f"others can read `{asked.path}`, which records requests (`chmod 600` restricts it to its owner)"
        Screen(sys.stderr).warn(warning)
    return found


def seal_options(asked: LogOptions) -> SealOptions | None:
    """Return how to seal the log; None if sealing is off. Raises CommandError."""
    from policyengine.audit.seal.options import SealOptions

    if asked.seal == SEAL_OFF:
        if asked.concern_the_seal:
            hint = "omit `--log-seal off`, or the options of the seal"
            raise CommandError("usage", "the log is not sealed", hint, code=2)
        return None
    folder = None if asked.seal is None else Path(asked.seal)
    return SealOptions(
        asked.key, folder, webhooks=tuple(asked.checkpoint_urls or ()), witnesses=witness_options(asked.witnesses or ())
    )


def witness_options(given: Sequence[str]) -> tuple[WitnessOptions, ...]:
    """Parse the witnesses. Raises CommandError."""
    if not given:
        return ()
    from policyengine.audit.seal.delivery import DeliveryError, parse_witnesses

    try:
        return parse_witnesses(given)
    except DeliveryError as error:
        hint = "write `--log-witness 'https://witness.example name+id+key'`"
        raise CommandError("usage", str(error), hint, code=2) from None


def parse_sink_options(asked: LogOptions) -> SinkOptions | None:
    """Return the sinks, or None if there are none. Raises CommandError."""
    from policyengine.audit.sinks.sink_set import SinkOptions
    from policyengine.audit.sinks.targets import SinkTargetError, parse_sinks

    if not asked.sinks:
        if asked.spool is not None:
            raise CommandError("usage", "there is no sink", "name one: `--log-sink URL`", code=2)
        return None
    try:
        return SinkOptions(parse_sinks(asked.sinks), asked.spool, spool=asked.path is None)
    except SinkTargetError as error:
        raise CommandError("usage", error.message, error.hint, code=2) from None


def open_spool(asked: LogOptions, sinks: SinkOptions) -> DecisionLog:
    """Open the spool of sinks without a log. Raises CommandError and DecisionLogError."""
    from policyengine.audit import DecisionLog, DecisionLogError, Rotation

    if asked.rotate or asked.keep is not None or asked.compress:
        message = "only a decision log can be rotated, and there is no decision log"
        raise CommandError("usage", message, "name its file: `--log decisions.jsonl`", code=2)
    if asked.spool is None:
        hint = "keep a log (`--log FILE`), or name a folder for records that are not sent yet: `--log-spool FOLDER`"
        raise CommandError("usage", "sinks need a log or a spool", hint, code=2)
    try:
        asked.spool.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DecisionLogError(f"`{asked.spool}`: {(error.strerror or str(error)).lower()}") from None
    return DecisionLog(
        asked.spool / SPOOL_FILE, on_failure=asked.on_failure.value, redact=asked.redact or (),
        rotation=Rotation(sinks.part_bytes), sync=asked.sync.value, seal=None, sinks=sinks,
    )  # fmt: skip


@contextmanager
def report_log_errors(path: Path | None) -> Iterator[None]:
    """Convert a DecisionLogError to a CommandError."""
    from policyengine.audit import DecisionLogError

    try:
        yield
    except DecisionLogError as error:
        raise CommandError("log", error.message, error.hint, (("file", str(path)),)) from None
