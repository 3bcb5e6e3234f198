"""Each wheel of `dist` decides in a fresh environment, with the dependencies that it names: `make test-wheels`."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from policyengine import __version__
from tests.test_wheel import ELSEWHERE, EXAMPLE, run

CHECKOUT = Path(__file__).parent.parent
WHEELS = sorted((CHECKOUT / "dist").glob("*.whl"))
OURS = f"cp{sys.version_info.major}{sys.version_info.minor}"
BUILDS = {True: "pure Python", False: "compiled"}

pytestmark = [pytest.mark.wheels, pytest.mark.timeout(300)]


def is_pure(wheel: Path) -> bool:
    return wheel.stem.endswith("-py3-none-any")


def python_of(wheel: Path) -> str:
    return sys.executable if is_pure(wheel) or f"-{OURS}-" in wheel.name else os.environ.get("PYTHON313", "python3.13")


@pytest.fixture(scope="module", params=WHEELS, ids=lambda wheel: wheel.name)
def wheel(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of a fresh environment that pip installs the wheel into."""
    home = tmp_path_factory.mktemp("fresh") / "venv"
    run(python_of(wheel), "-m", "venv", home, cwd=home.parent)
    pip = (home / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check")
    run(*pip, "-c", CHECKOUT / "constraints.txt", wheel, cwd=home)
    return home / "bin"


def test_dist_has_a_pure_wheel_and_a_compiled_one_for_this_python():
    assert {(is_pure(wheel), f"-{OURS}-" in wheel.name) for wheel in WHEELS} >= {(True, False), (False, True)}


def test_only_a_compiled_wheel_has_binaries(wheel):
    binaries = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".so", ".pyd"))]
    assert bool(binaries) is not is_pure(wheel)


def test_the_version_says_how_the_wheel_was_built(wheel, installed, tmp_path):
    wanted = f"policyengine {__version__} ({BUILDS[is_pure(wheel)]})\n"
    assert run(installed / "policyengine", "--version", cwd=tmp_path) == wanted


def test_the_installed_command_decides_outside_the_checkout(installed, tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "payments")
    words = ("decide", "payments", "-r", "payments/request.json", "-e", "payments/entities.json", "--format", "json")
    done = subprocess.run(
        [installed / "policyengine", *words], cwd=tmp_path, env=ELSEWHERE, capture_output=True, text=True
    )
    assert done.returncode == 11, done.stderr
    assert re.search(r'"outcome": ?"confirm"', done.stdout)


def test_the_walker_of_a_compiled_wheel_is_not_interpreted(wheel, installed, tmp_path):
    where = run(
        installed / "python", "-c", "from policyengine.evaluator import walker; print(walker.__file__)", cwd=tmp_path
    )
    assert where.strip().endswith(".py") is is_pure(wheel)
