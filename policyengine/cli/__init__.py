"""The command line, the outermost layer of the program; docs/cli.md documents its output and exit codes.

This module imports little, and each command imports what it needs when it runs, so that `--version` and `--help` do not
wait for a parser or a web server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import BytesIO, StringIO, TextIOWrapper

from policyengine import __version__
from policyengine.control_characters import one_line
from policyengine.evaluator import is_compiled

EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names and return its exit code."""
    _open_closed_streams()
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does, so nothing could read an error message.
        _drop_output()
        return 1
    except OSError as error:
        _drop_output()
        what = "cannot write the output" if error.filename is None else f"`{one_line(str(error.filename))}`"
        print(f"error: {what}: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        print(version_line(), flush=True)
        return 0
    if arguments[:1] in (["serve"], ["mcp-gateway"]):
        from policyengine.hangup_signal import record_hangups

        record_hangups()
    from policyengine.cli.app import run

    return run(arguments)


def version_line() -> str:
    """Return the version, and whether the evaluator is compiled."""
    return f"policyengine {__version__} ({'compiled' if is_compiled() else 'pure Python'})"


def _open_closed_streams() -> None:
    """Replace standard streams that the shell closed (`>&-`), which Python sets to None, with streams in memory."""
    sys.stdin = sys.stdin or TextIOWrapper(BytesIO())
    sys.stdout = sys.stdout or StringIO()
    sys.stderr = sys.stderr or StringIO()


def _drop_output() -> None:
    """Redirect stdout to /dev/null, because flushing its buffer at exit would fail again, with a traceback."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
