"""The rule that CI never passes by skipping."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A suite of its own, run in a process of its own: our conftest sets hypothesis up for the whole process."""
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    return pytester


@pytest.mark.parametrize(
    "reason",
    ["redis-server is missing", "could not import 'grpc'", "redis is not running", "no browser: apt install chromium"],
)
def test_in_ci_a_skip_for_want_of_a_tool_fails(suite, monkeypatch, reason):
    monkeypatch.setenv("CI", "true")
    suite.makepyfile(f"import pytest\ndef test_it(): pytest.skip({reason!r})")
    suite.runpytest_subprocess().assert_outcomes(failed=1)


def test_in_ci_a_module_that_skips_for_want_of_a_package_fails(suite, monkeypatch):
    monkeypatch.setenv("CI", "true")
    suite.makepyfile("import pytest\npytest.importorskip('no_such_package')")
    suite.runpytest_subprocess().assert_outcomes(errors=1)


def test_in_ci_a_skip_for_another_reason_stays_a_skip(suite, monkeypatch):
    monkeypatch.setenv("CI", "true")
    suite.makepyfile("import pytest\ndef test_it(): pytest.skip('only on windows')")
    suite.runpytest_subprocess().assert_outcomes(skipped=1)


def test_outside_ci_a_skip_for_want_of_a_tool_stays_a_skip(suite, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    suite.makepyfile("import pytest\ndef test_it(): pytest.skip('redis-server is missing')")
    suite.runpytest_subprocess().assert_outcomes(skipped=1)
