"""The rules of the suite: CI never passes by skipping, and nothing depends on how the suite was started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from policyengine.diagnostics.model import PolicyError
from policyengine.engine import Engine
from tests import forking
from tests.conftest import CLIENT_SECONDS, LARGEST_REMEMBERED

pytest_plugins = ["pytester"]
CHECKOUT = Path(__file__).parent.parent


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A suite of its own, run in a process of its own: our conftest sets hypothesis up for the whole process."""
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    monkeypatch.setattr(sys, "executable", forking.python())
    return pytester


REASONS = """
import pytest
wants = ["redis-server is missing", "could not import 'grpc'", "redis is not running", "install a browser"]
@pytest.mark.parametrize("reason", wants)
def test_for_a_missing_tool(reason): pytest.skip(reason)
def test_for_another_reason(): pytest.skip("only on windows")
"""


def test_in_ci_only_a_skip_for_a_missing_tool_fails(suite, monkeypatch):
    monkeypatch.setenv("CI", "true")
    suite.makepyfile(REASONS)
    suite.runpytest_subprocess().assert_outcomes(failed=4, skipped=1)


def test_in_ci_a_module_skipped_for_a_missing_package_fails(suite, monkeypatch):
    monkeypatch.setenv("CI", "true")
    suite.makepyfile("import pytest\npytest.importorskip('no_such_package')")
    suite.runpytest_subprocess().assert_outcomes(errors=1)


def test_outside_ci_the_last_line_counts_skips_and_names_the_missing_tools(suite, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    suite.makepyfile("""
        import pytest
        @pytest.mark.parametrize("tool", ["nginx", "redis-server", "nginx"])
        def test_it(tool): pytest.skip(f"{tool} is missing: apt install {tool}")
        def test_of_a_package(): pytest.importorskip("no_such_package")
        def test_on_another_system(): pytest.skip("only on windows")
    """)
    wanted = "4 tests skipped for want of nginx, no_such_package, redis-server: `make test-all` installs"
    ended = suite.runpytest_subprocess("-n", "2")
    ended.assert_outcomes(skipped=5)
    assert ended.outlines[-1].startswith(wanted), ended.outlines[-1]


def test_outside_ci_no_line_about_tools_follows_other_skips(suite, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    suite.makepyfile("import pytest\ndef test_it(): pytest.skip('only on windows')")
    assert suite.runpytest_subprocess().outlines[-1].startswith("=")


INHERITED = """
import signal, subprocess, sys
def test_a_program_is_interruptible():
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"True\\n"
def test_a_program_writes_bytecode():
    assert not sys.dont_write_bytecode
    code = "import sys; print(sys.dont_write_bytecode)"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"False\\n"
"""


def test_started_programs_inherit_neither_ignored_interrupts_nor_a_disabled_bytecode_cache(suite, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    suite.makepyfile(INHERITED)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        suite.runpytest_subprocess().assert_outcomes(passed=2)
    finally:
        signal.signal(signal.SIGINT, before)


FAILURES = """
import os
import pytest
IMPORTED_BY = os.getpid()
@pytest.fixture
def broken(): raise ValueError("in the setup")
@pytest.fixture
def unclean():
    print("printed by a test")
    yield
    raise ValueError("in the teardown")
def test_with_a_broken_setup(broken): pass
def test_with_a_broken_teardown(unclean): pass
@pytest.mark.parametrize("number", range(4))
def test_it(number): assert number != 2
@pytest.mark.parametrize("number", range(3))
def test_that_crashes(number):
    if number == 1: os.abort()
def test_the_import_was_in_another_process(): assert os.getpid() != IMPORTED_BY
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_forked_workers_report_crashes_and_failures_in_fixtures_and_tests(suite, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    suite.makepyfile(FAILURES)
    ended = suite.runpytest_subprocess("-n", "1")
    ended.assert_outcomes(passed=7, failed=2, errors=2)
    ended.stdout.fnmatch_lines_random([
        "*ValueError: in the setup", "*ValueError: in the teardown", "printed by a test",
        "worker 'gw0' crashed while running '*::test_that_crashes?1?'", "replacing crashed worker gw0",
    ])  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_a_wrong_path_is_one_message_also_with_workers(suite, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    suite.makepyfile("def test_it(): pass")
    ended = suite.runpytest_subprocess("-n", "1", "nothing.py")
    assert ended.ret == pytest.ExitCode.USAGE_ERROR
    ended.stderr.fnmatch_lines(["ERROR: file or directory not found: nothing.py"])
    assert "Traceback" not in ended.stderr.str() + ended.stdout.str()


def test_workers_collect_themselves_if_no_process_collects_for_them(suite, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    suite.makepyfile("""
        import os
        if "PYTEST_XDIST_WORKER" not in os.environ: os.abort()
        IMPORTED_BY = os.getpid()
        def test_the_import_was_in_this_process(): assert os.getpid() == IMPORTED_BY
    """)
    suite.runpytest_subprocess("-n", "1").assert_outcomes(passed=1)


@pytest.mark.deep
def test_every_process_collects_the_same_tests_in_the_same_order():
    """A parameter from a set has another place in each process, and workers that are not forked refuse to run."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        CHECKOUT / "tests",
    ]
    first, other = (
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True).stdout
        for seed in ("1", "2")
    )
    assert len(first.splitlines()) > 10_000
    assert first.splitlines()[:-1] == other.splitlines()[:-1]  # the last has the seconds


POLICY = "language 1 package p anyone { may GET /a }"


def test_http_clients_of_tests_wait_for_a_busy_machine():
    assert httpx.Client().timeout == httpx.Timeout(CLIENT_SECONDS)


def test_engines_of_the_same_text_share_a_kernel_but_those_of_another_text_or_name_do_not():
    kernel = Engine.from_text(POLICY).kernel
    assert Engine.from_text(POLICY).kernel is kernel
    assert Engine.from_text(POLICY, "other.policy").kernel is not kernel
    assert Engine.from_text(POLICY.replace("/a", "/b")).kernel is not kernel
    large = POLICY + " " * LARGEST_REMEMBERED
    assert Engine.from_text(large).kernel is not Engine.from_text(large).kernel


def test_a_policy_with_errors_raises_them_each_time():
    errors = []
    for text in (f"{POLICY} guard", f"{POLICY} guard"):
        with pytest.raises(PolicyError) as raised:
            Engine.from_text(text)
        errors.append([each.render() for each in raised.value.diagnostics])
    assert errors[0] == errors[1] != []
