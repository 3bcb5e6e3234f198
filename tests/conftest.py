"""What every test shares: how long hypothesis searches, and that CI never passes by skipping for want of a tool."""

import gc
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Generator

import pytest
from hypothesis import settings

IN_CI = os.environ.get("CI") == "true"
WANTS_SOMETHING = re.compile(
    r"could not import|no module named|missing|unavailable|\binstall\b"
    r"|not (?:available|found|installed|reachable|running)",
    re.IGNORECASE,
)

# No deadlines: on two shared cores they measure the neighbours. `make test-deep` tries thousands.
settings.register_profile("local", deadline=None, max_examples=40)
settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True, print_blob=True)
settings.register_profile("deep", deadline=None, max_examples=3_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "local"))


def pytest_configure() -> None:
    """Restore SIGINT, which `nohup` and background jobs ignore: the programs that tests start would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was collected stays, thousands of tests: no collector walks it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def fail_if_skipped_for_want(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure when its reason says that a server, a tool or a package is not there."""
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return
    path, line, reason = report.longrepr
    if WANTS_SOMETHING.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: CI has everything installed, yet this was skipped: {reason}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the shards that compare engine and specification counted, all together."""
    told: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        told.update(json.loads(str(dict(report.user_properties).get("equality", "{}"))))
    if told:
        terminalreporter.section("held equal to the specification")
        for name, count in sorted(told.items(), key=lambda row: -row[1]):
            terminalreporter.line(f"{count:>12,} {name}")


if IN_CI:

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        fail_if_skipped_for_want(report)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        fail_if_skipped_for_want(report)
        return report
