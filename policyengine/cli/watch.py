"""Running something again whenever a policy changes, until the person interrupts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from policyengine.cli.errors import CommandError, report_error
from policyengine.cli.output.terminal import Screen
from policyengine.install_hints import install_command

SUFFIXES = (".policy", ".json", ".toml")
POLL_MILLISECONDS = 200  # milliseconds


def rerun_on_change(paths: Sequence[Path], once: Callable[[], int]) -> int:
    """Runs until it is interrupted; what is wrong with a policy is told and waits for the next change."""
    try:
        from watchfiles import watch
    except ImportError:
        hint = install_command("testing")
        raise CommandError("usage", "`--watch` needs watchfiles", hint, code=2) from None
    screen = Screen()
    folders = {path if path.is_dir() else path.parent for path in paths}
    changing = watch(
        *folders,
        watch_filter=lambda _, path: path.endswith(SUFFIXES),
        debounce=300,
        rust_timeout=POLL_MILLISECONDS,
        yield_on_timeout=True,
    )
    next(changing)  # it watches from here on: what changes while the tests run is not missed
    run_reporting_errors(once)
    screen.line(("watching for changes; Ctrl-C ends it", "dim"))
    for changes in changing:
        if changes:
            screen.line()
            screen.line((f"changed: {', '.join(sorted({Path(path).name for _, path in changes}))}", "bold"))
            run_reporting_errors(once)
    return 0


def run_reporting_errors(once: Callable[[], int]) -> None:
    try:
        once()
    except CommandError as error:
        report_error(error, as_json=False)
