"""Shared by all tests: how long hypothesis searches, and which tests are skipped without a tool (in CI a failure)."""

import gc
import importlib
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings, strategies

IN_CI = os.environ.get("CI") == "true"
WANTS_SOMETHING = re.compile(
    r"could not import|no module named|missing|unavailable|\binstall\b"
    r"|not (?:available|found|installed|reachable|running)",
    re.IGNORECASE,
)
MISSING = re.compile(
    r"(?:Skipped: )?(?:could not import '(?P<module>[\w.]+)'|(?P<program>[\w. -]+) is (?:missing|not installed)\b)"
)
LARGEST_REMEMBERED = 30_000  # characters; tests of large policies measure how long it takes to compile them
CLIENT_SECONDS = 30.0  # instead of 5, which a server on a busy machine reaches
Compiled = tuple[Any, tuple[Any, ...]]

# No deadlines: on two shared cores they measure other processes. `make test-deep` tries more examples.
settings.register_profile("local", deadline=None, max_examples=8)
settings.register_profile("ci", deadline=None, max_examples=8, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=100, print_blob=True)
settings.register_profile("deep", deadline=None, max_examples=3_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "local"))


def pytest_configure(config: pytest.Config) -> None:
    """Restore SIGINT, which `nohup` and background jobs ignore, and allow Python to cache bytecode. The programs that
    tests start inherit both; without bytecode, each of them compiles all modules again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    gc.set_threshold(50_000, 10, 1_000)  # also with workers: all of their reports are kept to the end


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Fork the workers from one process that has collected all tests, where processes can be forked."""
    if sys.platform == "linux" and "coverage" not in sys.modules:
        with suppress(ImportError):
            importlib.import_module("tests.worker_template").start(config, specs)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    plugins, options = session.config.pluginmanager.get_plugins(), session.config.option
    worker = next((each for each in plugins if type(each).__name__ == "WorkerInteractor"), None)
    if worker is not None and options.verbose <= 0 and options.durations is None:
        send_only_outcomes(worker)


def send_only_outcomes(worker: Any) -> None:
    """Leave out messages to the controller that no reporter shows: the begin and end of tests, and passed fixtures."""
    send = worker.sendevent

    def send_outcome(name: str, **data: Any) -> None:
        report = data.get("data", {})
        is_shown = report.get("when") == "call" or report.get("outcome") != "passed" or report.get("sections")
        if name not in ("logstart", "logfinish") and (name != "testreport" or is_shown):
            send(name, **data)

    worker.sendevent = send_outcome


def pytest_runtest_teardown() -> None:
    """Stop the threads of logs and of halts that a test did not close."""
    if halts := sys.modules.get("policyengine.halts.control"):
        halts.close_controls()
    if sealer := sys.modules.get("policyengine.audit.seal.sealer"):
        for each in tuple(sealer._SEALERS):
            each.abandon()


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Use hypothesis and numpy, while there are few objects: hypothesis searches all of them for the owners of random
    numbers when it first uses these, and would not find frozen ones."""
    with suppress(ImportError):
        importlib.import_module("numpy.random")
    use_hypothesis()


def pytest_collection_finish() -> None:
    """Freeze the thousands of collected tests, so that the garbage collector does not traverse them, not even once."""
    gc.freeze()
    from policyengine import gc_freeze

    gc_freeze.has_frozen = lambda: True  # known without visiting all of them
    if engine := sys.modules.get("policyengine.engine.engine"):
        engine.compile_sources = remember_kernels(engine.compile_sources)
    for name in ("httpx", "httpx2"):
        if transports := sys.modules.get(f"{name}._transports.default"):
            transports.create_ssl_context = remember_contexts(transports.create_ssl_context)
        if config := sys.modules.get(f"{name}._config"):  # of clients of tests; ours state theirs
            limits = config.DEFAULT_TIMEOUT_CONFIG
            limits.connect = limits.read = limits.write = limits.pool = CLIENT_SECONDS


@settings(max_examples=1, database=None)
@given(strategies.none())
def use_hypothesis(_: None) -> None:
    pass


def remember_kernels(compile_sources: Callable[..., Compiled]) -> Callable[..., Compiled]:
    """Let engines of the same sources share a kernel, which is immutable: thousands of tests load the same policies."""

    @lru_cache(maxsize=500)
    def compile_once(labelled: tuple[tuple[Any, str], ...], advice: bool) -> Compiled:
        return compile_sources([source for source, _ in labelled], (), advice=advice)

    def remembered(sources: Sequence[Any], problems: Sequence[Any] = (), *, advice: bool = False) -> Compiled:
        if problems or sum(len(each.text) for each in sources) > LARGEST_REMEMBERED:
            return compile_sources(sources, problems, advice=advice)
        return compile_once(tuple((each, each.label) for each in sources), advice)

    return remembered


def remember_contexts(create: Callable[..., Any]) -> Callable[..., Any]:
    """Let HTTP clients with default settings share a TLS context: each new one parses all certificates of the machine,
    and hundreds of tests make a client for one request."""

    @lru_cache
    def create_once(trust_env: bool, file: str | None, folder: str | None) -> Any:
        return create(trust_env=trust_env)

    def remembered(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:
        if verify is not True or cert is not None:
            return create(verify=verify, cert=cert, trust_env=trust_env)
        return create_once(trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))

    return remembered


@pytest.fixture(scope="session")
def open_browser(tmp_path_factory: pytest.TempPathFactory) -> Generator[Any]:
    """A browser that is started once for each worker."""
    chromium = importlib.import_module("tests.chromium")
    with chromium.chromium(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture
def browser(open_browser: Any) -> Any:
    """A browser that knows no site."""
    open_browser.forget()
    return open_browser


def fail_if_skipped_for_want(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure if its reason is a missing server, tool or package."""
    reason = want(report)
    if reason is not None and isinstance(report.longrepr, tuple):
        path, line, _ = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: CI has everything installed, yet this was skipped: {reason}"


def want(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Return the reason of a skip, if it is a missing server, tool or package."""
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return None
    reason = report.longrepr[2]
    return reason if WANTS_SOMETHING.search(reason) else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Print the tests that were skipped because of a missing tool, below the last line of pytest."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    wants = [reason for report in reporter.stats.get("skipped", ()) if (reason := want(report))] if reporter else []
    if wants:
        tools = {found["module"] or found["program"] for reason in wants if (found := MISSING.match(reason))}
        reporter.write_line(
            f"{len(wants)} tests skipped for want of {', '.join(sorted(tools, key=str.lower)) or 'a tool'}: "
            "`make test-all` installs what is missing and runs them"
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the total counts of the shards that compare engine and specification."""
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
