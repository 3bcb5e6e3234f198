"""The wheel stands alone: built from the sdist, installed in a fresh environment, used outside the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.ci import vendor
from policyengine import __version__

CHECKOUT = (Path(__file__).parent.parent / "pyproject.toml").resolve().parent  # also if links lead to it
EXAMPLE = CHECKOUT / "policies" / "examples" / "payments"
OURS = "agent-policyengine"
UNAIDED = ("--no-deps", "--no-index", "--no-compile")  # a module that is used is compiled then
ELSEWHERE = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
CONFIRM = 11  # the exit code
NO_COMPILER = {"CC": "/bin/false", "HATCH_BUILD_HOOK_ENABLE_MYPYC": "0"}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env={**ELSEWHERE, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a packager gets it: from the unpacked sdist, without network and without a C compiler."""
    work = tmp_path_factory.mktemp("build")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", work, cwd=CHECKOUT)
    with tarfile.open(next(work.glob("*.tar.gz"))) as sdist:
        sdist.extractall(work, filter="data")
    source = next(path for path in work.iterdir() if path.is_dir())
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", work, cwd=source, **NO_COMPILER)
    return next(work.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of a fresh environment that holds the wheel and borrows only our dependencies."""
    home = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(home, with_pip=False, symlinks=os.name == "posix")
    paths = sysconfig.get_paths("venv", {"base": str(home), "platbase": str(home)})
    site = Path(paths["purelib"])
    pinned = home / "requirements.txt"
    pinned.write_text(pinned_to(wheel))
    words = ("install", "-q", *UNAIDED, "--require-hashes", "--find-links", wheel.parent, "-r", pinned)
    run(sys.executable, "-m", "pip", "--python", home, *words, cwd=home)
    for borrowed in dependencies():
        for top in {Path(file).parts[0] for file in metadata.files(borrowed) or ()} - {"..", "__pycache__"}:
            (site / top).symlink_to(metadata.distribution(borrowed).locate_file(top))
    return Path(paths["scripts"])


def pinned_to(wheel: Path) -> str:
    """The requirements file that accepts this wheel only."""
    return vendor.requirements({(OURS, vendor.version(wheel)): {f"sha256:{vendor.digest(wheel)}"}}, ours=OURS)


def dependencies() -> set[str]:
    """The distributions that pip installs with ours if no extra is asked for."""
    found, waiting = (
        set(),
        [*tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]],
    )
    while waiting:
        needed = Requirement(waiting.pop())
        name = canonicalize_name(needed.name)
        if name not in found and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += metadata.requires(name) or []
    return found


def test_the_installed_package_comes_from_the_wheel(installed, tmp_path):
    where = run(installed / "python", "-c", "import policyengine; print(policyengine.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)


def test_a_wheel_built_without_a_compiler_is_for_every_python_and_says_that_it_is_pure(wheel, installed, tmp_path):
    assert wheel.name.endswith("-py3-none-any.whl")
    said = run(installed / "policyengine", "--version", cwd=tmp_path)
    assert said == f"policyengine {__version__} (pure Python)\n"


def test_the_installed_command_checks_renders_and_decides_outside_the_checkout(installed, tmp_path):
    """In one process: to import everything takes longest."""
    shutil.copytree(EXAMPLE, tmp_path / "payments")
    program = "import sys; from policyengine.cli import main; print([main(line.split()) for line in sys.argv[1:]])"
    lines = (
        "check payments",
        "graph payments -o tree.svg",
        "decide payments -r payments/request.json -e payments/entities.json",
    )
    said = run(installed / "python", "-c", program, *lines, cwd=tmp_path)
    assert said.splitlines()[-1] == f"[0, 0, {CONFIRM}]", said
    assert (tmp_path / "tree.svg").read_text(encoding="utf-8").startswith("<svg")


TEMPLATES = sorted(
    path.relative_to(CHECKOUT / "policyengine").as_posix() for path in CHECKOUT.glob("policyengine/**/templates/*")
)


def test_the_package_has_templates() -> None:
    assert len(TEMPLATES) > 10


def test_the_wheel_contains_the_data_files_of_the_package(installed, tmp_path):
    names = ["grammar/policy.lark", "examples/payments", "py.typed", *TEMPLATES]
    program = (
        "import sys, importlib.resources as r; print(*map(r.files('policyengine').joinpath, sys.argv[1:]), sep='\\n')"
    )
    paths = run(installed / "python", "-c", program, *names, cwd=tmp_path).splitlines()
    assert {name: Path(path).exists() for name, path in zip(names, paths, strict=True)} == dict.fromkeys(names, True)


# ── Vendored ──────────────────────────────────────────────────────────────────────────────────


def report(name: str, version: str, **archive: object) -> dict[str, object]:
    return {"metadata": {"name": name, "version": version}, "download_info": {"archive_info": archive}}


def test_every_requirement_has_the_hashes_of_all_platforms():
    listed = [report("Some_Package", "1.2", hashes={"sha256": "aa"}), report("other", "3", hashes={"sha256": "bb"})]
    found = vendor.packages({"install": listed})
    found["some-package", "1.2"].add("sha256:cc")
    lines = vendor.requirements({**found, (OURS, "0.1.0"): {"sha256:dd"}}, ours=OURS).splitlines()[1:]
    assert lines == [
        f"{OURS}[testing]==0.1.0 \\", "    --hash=sha256:dd",
        "other==3 \\", "    --hash=sha256:bb",
        "some-package==1.2 \\", "    --hash=sha256:aa \\", "    --hash=sha256:cc",
    ]  # fmt: skip


def test_a_package_without_a_hash_is_rejected():
    with pytest.raises(ValueError, match="no hash of other 3"):
        vendor.packages({"install": [report("other", "3")]})


def test_pip_does_not_install_a_wheel_without_a_matching_hash(wheel, installed, tmp_path):
    """The wheel that is `installed` has passed this check."""
    shutil.copy(wheel, tmp_path)
    (tmp_path / "requirements.txt").write_text(pinned_to(wheel))
    with (tmp_path / wheel.name).open("ab") as file:
        file.write(b"more")
    words = ("install", "-q", *UNAIDED, "--require-hashes", "--find-links", ".", "--target", "there")
    done = subprocess.run([sys.executable, "-m", "pip", *words, "-r", "requirements.txt"], cwd=tmp_path, env=ELSEWHERE,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "there" / "policyengine").exists()
