"""What ends a command early: one clear message on stderr, and with `--format json` the same as data on stdout."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from policyengine.cli.output.terminal import Screen, print_json

TRACEBACK_VARIABLE = "POLICYENGINE_TRACEBACK"


@dataclass(eq=False)
class CommandError(Exception):
    """A command cannot go on. `kind` is stable (`file`, `policy`, `request` …); `facts` are what else is known."""

    kind: str
    message: str
    hint: str | None = None
    facts: tuple[tuple[str, Any], ...] = ()
    code: int = 1
    detail: str = ""  # lines for people that come before the message: the diagnostics of a policy

    def to_dict(self) -> dict[str, Any]:
        known = {name: value for name, value in self.facts if value is not None}
        return {"error": {"kind": self.kind, "message": self.message, "hint": self.hint, **known}}


def report_error(error: CommandError, *, as_json: bool) -> int:
    """Say what went wrong in every form that was asked for; the exit code."""
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
    """Where in the program it came from, for those who asked."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)


@contextmanager
def short_log_messages() -> Iterator[None]:
    """What fails inside of a decision is denied and logged; the log is one line here, not a traceback."""
    import logging

    class InShort(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
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
    """`cannot read …: no such file`, in words."""
    words = (error.strerror or type(error).__name__).lower()
    return CommandError("file", f"`{path}`: {words}", facts=(("file", str(path)),))


def policy_error(error: Any, code: int = 1) -> CommandError:
    """A PolicyError: the diagnostics themselves, then how many there are."""
    errors = [diagnostic for diagnostic in error.diagnostics if diagnostic.is_error]
    count = f"{len(errors)} error{'' if len(errors) == 1 else 's'}"
    return CommandError(
        "policy",
        f"the policy cannot be used: {count}",
        "`policyengine explain-code CODE` tells more about each",
        (("diagnostics", [diagnostic.to_dict() for diagnostic in error.diagnostics]),),
        code,
        "\n\n".join(diagnostic.render() for diagnostic in errors),
    )
