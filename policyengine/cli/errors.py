"""Errors that end a command: one message on stderr and, with `--format json`, the same as data on stdout."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from policyengine.bounded_files import missing_file_hint
from policyengine.cli.output.terminal import Screen, print_json

TRACEBACK_VARIABLE = "POLICYENGINE_TRACEBACK"


@dataclass(eq=False)
class CommandError(Exception):
    """The error for a command that cannot continue. `kind` is stable (`file`, `policy`, `request` …); `facts` are
    further JSON members.
    """

    kind: str
    message: str
    hint: str | None = None
    facts: tuple[tuple[str, Any], ...] = ()
    code: int = 1
    detail: str = ""  # lines to show before the message, such as the diagnostics of a policy

    def to_dict(self) -> dict[str, Any]:
        known = {name: value for name, value in self.facts if value is not None}
        return {"error": {"kind": self.kind, "message": self.message, "hint": self.hint, **known}}


def report_error(error: CommandError, *, as_json: bool) -> int:
    """Report an error on stderr, and as JSON on stdout with `as_json`; return the exit code."""
    if as_json:
        print_json(error.to_dict(), indent=None)
    screen = Screen(sys.stderr)
    if error.detail:
        screen.findings(error.detail)
        screen.line()
    screen.line(("error: ", "bold red"), error.message)
    if error.hint:
        screen.line(("hint: ", "cyan"), error.hint)
    return error.code


def short_message(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def show_traceback(error: BaseException) -> None:
    """Print the traceback of an error if `--traceback` is set."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)


@contextmanager
def short_log_messages() -> Iterator[None]:
    """Log an error inside a decision, which the engine turns into a denial, as one line instead of a traceback."""
    import logging

    class InShort(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "event", None) == "halt":  # the reason of the decision names the halt
                return
            error = sys.exception() or RuntimeError()
            show_traceback(error)
            Screen(sys.stderr).line(f"error: {record.getMessage()}: {short_message(error)}")

    logger, handler = logging.getLogger("policyengine"), InShort()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def file_error(path: object, error: OSError) -> CommandError:
    """Return a CommandError with the path and the reason, such as `no such file or directory`."""
    words = (error.strerror or type(error).__name__).lower()
    return CommandError("file", f"`{path}`: {words}", missing_file_hint(path, error), (("file", str(path)),))


def log_error(log: object, error: OSError) -> CommandError:
    """Return a CommandError for a decision log that cannot be read; a PackedLogError has its own message and hint."""
    from policyengine.audit.packed_log import PackedLogError

    if isinstance(error, PackedLogError):
        return CommandError("log", error.message, error.hint, (("file", str(log)),))
    return file_error(error.filename or log, error)


def policy_error(error: Any, code: int = 1) -> CommandError:
    """Return a CommandError with the diagnostics of a PolicyError and their number."""
    from policyengine.policy_files import other_file_hint

    errors = [diagnostic for diagnostic in error.diagnostics if diagnostic.is_error]
    count = f"{len(errors)} error{'' if len(errors) == 1 else 's'}"
    return CommandError(
        "policy",
        f"the policy cannot be used: {count}",
        other_file_hint(errors) or "`policyengine explain-code CODE` explains each one",
        (("diagnostics", [diagnostic.to_dict() for diagnostic in error.diagnostics]),),
        code,
        "\n\n".join(diagnostic.render() for diagnostic in errors),
    )
