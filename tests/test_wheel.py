"""The wheel stands alone: built from the sdist, installed in a fresh environment, used outside the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

from policyengine import __version__

CHECKOUT = Path(__file__).parent.parent
EXAMPLE = CHECKOUT / "policies" / "examples" / "payments"
ELSEWHERE = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=ELSEWHERE, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a packager gets it: from the unpacked sdist, without network."""
    work = tmp_path_factory.mktemp("build")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", work, cwd=CHECKOUT)
    with tarfile.open(next(work.glob("*.tar.gz"))) as sdist:
        sdist.extractall(work, filter="data")
    source = next(path for path in work.iterdir() if path.is_dir())
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", work, source, cwd=work)
    return next(work.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of a fresh environment that holds the wheel and borrows only our dependencies."""
    home = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(home, with_pip=False, symlinks=os.name == "posix")
    paths = sysconfig.get_paths("venv", {"base": str(home), "platbase": str(home)})
    site = Path(paths["purelib"])
    run(
        *(sys.executable, "-m", "pip", "--python", home, "install", "-q", "--no-deps", "--no-index", wheel),
        cwd=home,
    )
    # Listed in a .pth, a folder is searched for packages after this one, and its own .pth files (our editable
    # install among them) are not read: what is imported as policyengine can only be the wheel's.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return Path(paths["scripts"])


def test_the_installed_package_is_the_wheels(installed, tmp_path):
    where = run(installed / "python", "-c", "import policyengine; print(policyengine.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)


def test_the_installed_command_tells_its_version(installed, tmp_path):
    assert __version__ in run(installed / "policyengine", "--version", cwd=tmp_path)


def test_the_installed_command_checks_a_policy_outside_the_checkout(installed, tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "payments")
    run(installed / "policyengine", "check", "payments", cwd=tmp_path)


@pytest.mark.parametrize("name", ["grammar/policy.lark", "examples/payments", "py.typed"])
def test_the_wheel_carries_what_the_package_reads(installed, tmp_path, name):
    program = "import sys, importlib.resources as r; print(r.files('policyengine').joinpath(sys.argv[1]))"
    assert Path(run(installed / "python", "-c", program, name, cwd=tmp_path).strip()).exists()
