"""The definitions for pre-commit, GitHub and GitLab: they are read, and every command in them runs on an example."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from policyengine.cli.app import COMMANDS
from tests import forking
from tests.pages import CHECKOUT, EXAMPLES

TEXTS = {".py", ".md", ".yml", ".yaml", ".toml"}
BY_NAME = re.compile(r"pip install\b[^`]*agent-policyengine")
OUTSIDE = ("pip", "gh", "curl")  # other people's machines: what they are told is noted, and no more


def load(path: str) -> Any:
    return yaml.safe_load((CHECKOUT / path).read_text(encoding="utf-8"))


HOOKS = load(".pre-commit-hooks.yaml")
GITHUB = load("deploy/ci/github.yml")["jobs"]
GITLAB = {name: job for name, job in load("deploy/ci/gitlab-ci.yml").items() if name.startswith("policies-")}


def run_steps(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


SCRIPTS = {
    **{f"github {name}": run_steps(job) for name, job in GITHUB.items()},
    **{f"gitlab {name}": load("deploy/ci/gitlab-ci.yml")[".policies"]["before_script"] + job["script"]
       for name, job in GITLAB.items()},
}  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.com")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with an example in `policies`, and a second commit that changes it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copytree(EXAMPLES / "payments", folder / "policies")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "before")
    policy = folder / "policies" / "payments.policy"
    policy.write_text(
        policy.read_text(encoding="utf-8").replace("may GET /health", "may GET /health, GET /only/in/this/test")
    )
    git(folder, "commit", "-qam", "after")
    return folder


@pytest.fixture
def environment(checkout: Path, tmp_path: Path) -> dict[str, str]:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in OUTSIDE:
        (tools / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >> "{tmp_path}/told"\n')
        (tools / name).chmod(0o755)
    base = git(checkout, "rev-parse", "HEAD~1")
    ours = {"POLICIES": "policies", "BASE": base, "PR": "7", "CI_MERGE_REQUEST_DIFF_BASE_SHA": base}
    path = os.pathsep.join([str(tools), str(Path(forking.command()[0]).parent), os.environ["PATH"]])
    return {**os.environ, **ours, "PATH": path, "NO_COLOR": "1"}


def bash(script: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As runners do it: the first command that fails ends the script."""
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in SCRIPTS])
def test_every_command_of_a_job_succeeds_on_an_example(
    name: str, checkout: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    ran = 0
    for script in SCRIPTS[name]:
        done = bash(script, checkout, environment)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        ran += 1
    assert ran >= 2
    assert (tmp_path / "told").read_text().startswith("pip install --require-hashes --find-links .policyengine ")


@pytest.mark.parametrize("name", ["github check", "gitlab policies-check"])
def test_the_ci_lint_step_fails_on_a_lint_finding_and_writes_sarif(
    name: str, checkout: Path, environment: dict[str, str]
) -> None:
    (checkout / "policies" / "wide.policy").write_text("anyone { may GET /a/** }\n")
    (script,) = (one for one in SCRIPTS[name] if " lint " in one)
    assert bash(script, checkout, environment).returncode == 1
    results = yaml.safe_load((checkout / "policies.sarif").read_text())["runs"][0]["results"]
    assert [one["ruleId"] for one in results] == ["W458"]


def test_a_failing_policy_test_fails_its_ci_job_and_is_in_the_junit_report(
    checkout: Path, environment: dict[str, str]
) -> None:
    (script,) = (one for one in SCRIPTS["github test"] if "junit" in one)
    (checkout / "policies" / "more_test.policy").write_text(
        'package acme.payments\ntest "wrong" { GET /health => deny }\n'
    )
    assert bash(script, checkout, environment).returncode == 1
    assert "<failure" in (checkout / "results.xml").read_text()


def test_the_github_jobs_have_minimal_permissions() -> None:
    text = (CHECKOUT / "deploy/ci/github.yml").read_text(encoding="utf-8")
    assert "pull_request_target" not in text
    assert load("deploy/ci/github.yml")["permissions"] == {"contents": "read"}
    assert GITHUB["diff"]["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert all("${{" not in script for job in GITHUB.values() for script in run_steps(job)), "what is inserted is code"


def test_every_github_action_is_pinned_to_a_commit() -> None:
    used = [step["uses"] for job in GITHUB.values() for step in job["steps"] if "uses" in step]
    assert len(used) >= len(GITHUB)
    assert [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)] == []


@pytest.mark.parametrize("folder", ["policyengine", "deploy", "docs", "README.md", "Dockerfile"])
def test_no_text_says_to_install_the_package_from_the_index_by_name(folder: str) -> None:
    named = CHECKOUT / folder
    files = [named] if named.is_file() else [one for one in named.rglob("*") if one.suffix in TEXTS]
    said = [line for one in files for line in one.read_text(encoding="utf-8").splitlines() if BY_NAME.search(line)]
    assert said == []


def test_every_ci_command_is_a_policyengine_command_or_a_known_tool() -> None:
    words = {script.split()[0] for scripts in SCRIPTS.values() for script in scripts}
    assert words <= {"policyengine", "git", *OUTSIDE}
    ours = {
        script.split()[1] for scripts in SCRIPTS.values() for script in scripts if script.startswith("policyengine")
    }
    assert ours <= {*COMMANDS}


# ── pre-commit ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hook", [pytest.param(hook, id=hook["id"]) for hook in HOOKS])
def test_a_hook_passes_on_an_example(hook: dict[str, Any], checkout: Path, environment: dict[str, str]) -> None:
    names = [] if hook.get("pass_filenames") is False else ["policies/payments.policy"]
    done = bash(" ".join([hook["entry"], *hook.get("args", []), *names]), checkout, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert git(checkout, "status", "--porcelain") == ""


@pytest.mark.parametrize("hook", [pytest.param(hook, id=hook["id"]) for hook in HOOKS])
def test_a_pre_commit_hook_fails_on_or_fixes_a_wrong_file(
    hook: dict[str, Any], checkout: Path, environment: dict[str, str]
) -> None:
    """pre-commit also stops when a hook changed a file, as `fmt` does."""
    wrong = {"fmt": "anyone   { may GET /a }", "check": "let a = 1", "lint": "anyone { may GET /a/** }",
             "test": 'package acme.payments\ntest "wrong" { GET /health => deny }'}  # fmt: skip
    name = f"policies/wrong{'_test' if 'test' in hook['id'] else ''}.policy"
    (checkout / name).write_text(wrong[hook["id"].removeprefix("policyengine-")] + "\n")
    git(checkout, "add", ".")
    names = [] if hook.get("pass_filenames") is False else [name]
    done = bash(" ".join([hook["entry"], *hook.get("args", []), *names]), checkout, environment)
    assert done.returncode == 1 or git(checkout, "diff", "--name-only") == name


def test_pre_commit_hooks_have_the_required_fields() -> None:
    assert [hook["id"].removeprefix("policyengine-") for hook in HOOKS] == ["fmt", "check", "lint", "test"]
    for hook in HOOKS:
        assert hook["language"] == "python"
        assert hook["name"]
        assert hook["entry"].split()[:2] == ["policyengine", hook["id"].removeprefix("policyengine-")]
