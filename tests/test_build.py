"""What runs is the build that is said: a checkout its own source, and a compiled build every compiled module."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import policyengine
from policyengine.evaluator import is_compiled

# The compiled build is tested in a folder of links; `resolve` leads to the checkout itself.
CHECKOUT = (Path(__file__).parents[1] / "pyproject.toml").resolve().parent
HOOK = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"][
    "hooks"
]["mypyc"]
COMPILED = sorted(
    {path for pattern in HOOK["include"] for path in CHECKOUT.glob(pattern)}
    - {CHECKOUT / path for path in HOOK["exclude"]}
)


def test_no_binary_in_the_checkout_shadows_a_source():
    top = [*CHECKOUT.glob("*.so"), *CHECKOUT.glob("*.pyd")]
    package = [path for suffix in ("so", "pyd") for path in (CHECKOUT / "policyengine").rglob(f"*.{suffix}")]
    assert top + package == [], "`make compiled` builds outside of the package; delete these files"


def test_a_pure_build_is_the_checkout_and_a_compiled_one_is_not():
    own = Path(policyengine.__file__).resolve().is_relative_to(CHECKOUT / "policyengine")
    assert own is not is_compiled()


def test_the_build_that_is_tested_has_the_source_of_the_checkout():
    tested, source = (
        {path.relative_to(package): path.read_bytes() for path in package.rglob("*.py")}
        for package in (Path(policyengine.__file__).parent, CHECKOUT / "policyengine")
    )
    stale = sorted(str(path) for path in tested.keys() | source.keys() if tested.get(path) != source.get(path))
    assert stale == [], "remove build/, then `make compiled`"


def test_the_hook_names_modules():
    assert len(COMPILED) >= 20
    assert HOOK["enable-by-default"] is False


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_either_every_module_of_the_hook_is_compiled_or_none(path):
    spec = find_spec(".".join(path.relative_to(CHECKOUT).with_suffix("").parts))
    assert spec is not None
    assert spec.origin is not None
    assert spec.origin.endswith(".py") is not is_compiled()


# ── Without a compiler ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def make(tmp_path):
    """Run a target of the Makefile, which takes what is installed as it is and writes into another folder."""
    program = shutil.which("make") or pytest.skip("make is missing")
    folders = [f"BIN={Path(sys.executable).parent}", f"DIST={tmp_path / 'dist'}", f"COMPILED={tmp_path / 'compiled'}"]
    words = [program, "-o", ".venv/.installed", *folders, "PYTHON313=nonesuch"]

    def run(*targets: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {**os.environ, "CI": "", "CC": "/bin/false", **environment}
        return subprocess.run([*words, *targets], cwd=CHECKOUT, env=given, capture_output=True, text=True)

    return run


def test_compiling_without_a_compiler_says_what_to_install(make):
    done = make("compiled")
    assert done.returncode != 0
    assert "compiling needs a C compiler and the headers of Python (on Debian: `apt install gcc" in done.stderr


# A Python that has built the pure wheel already, and otherwise is the real one.
HAS_BUILT = f"""#!/bin/sh
case "$*" in
  *"pip wheel "*) while [ "$1" != -w ]; do shift; done; : > "$2/agent_policyengine-1-py3-none-any.whl";;
  *) exec "{sys.executable}" "$@";;
esac
"""


@pytest.mark.parametrize(("ci", "fails"), [("", False), ("true", True)])
def test_without_a_compiler_only_the_pure_wheel_is_built_and_ci_fails(make, tmp_path, ci, fails):
    """It is built once: CI differs in what comes after it."""
    folder = Path(sys.executable).parent
    if fails:
        (folder := tmp_path / "bin").mkdir()
        (folder / "python").write_text(HAS_BUILT)
        (folder / "python").chmod(0o755)
    done = make("wheels", f"BIN={folder}", CI=ci)
    assert (done.returncode != 0) is fails, done.stderr
    assert "a compiled wheel needs a C compiler" in done.stderr
    assert [path.name.split("-", 2)[2] for path in (tmp_path / "dist").iterdir()] == ["py3-none-any.whl"]
