"""Put policyengine into a repository of policies, with the hashes of all packages that CI installs: docs/ci.md.

    make vendor INTO=../policies/.policyengine

writes the wheel of this checkout, and `requirements.txt` with every package, its version and its hashes.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parent.parent.parent
EXTRA = "testing"
PYTHON = "3.12"  # the version in the CI templates
PLATFORMS = ("x86_64", "aarch64")
GLIBC = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def vendor(folder: Path) -> Path:
    """Write the wheel and the requirements; returns the latter. Raises CalledProcessError if pip fails."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = build(folder)
    hashes = {(distribution(wheel), version(wheel)): {f"sha256:{digest(wheel)}"}}
    for platform in PLATFORMS:
        for package, known in resolved(wheel, platform).items():
            hashes.setdefault(package, set()).update(known)
    written = folder / "requirements.txt"
    written.write_text(requirements(hashes, ours=distribution(wheel)), encoding="utf-8")
    return written


def build(folder: Path) -> Path:
    for older in folder.glob("agent_policyengine-*.whl"):
        older.unlink()
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, CHECKOUT], check=True, cwd=CHECKOUT
    )
    return next(folder.glob("agent_policyengine-*.whl"))


def resolved(wheel: Path, platform: str) -> dict[tuple[str, str], set[str]]:
    """Return the packages that pip would install on the platform, with the hashes of their files."""
    kinds = [word for glibc in GLIBC for word in ("--platform", f"{glibc}_{platform}")]
    constraints = ("-c", CHECKOUT / "constraints.txt")
    done = subprocess.run(
        [*PIP, "install", "--dry-run", "--ignore-installed", "--report", "-", "--target", wheel.parent, *constraints,
         "--python-version", PYTHON, *kinds, "--only-binary", ":all:", f"{wheel}[{EXTRA}]"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return packages(json.loads(done.stdout))


def packages(report: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    """Return names, versions and hashes from pip's report. Raises ValueError for a package without a hash."""
    found: dict[tuple[str, str], set[str]] = {}
    for one in report["install"]:
        name, number = one["metadata"]["name"], one["metadata"]["version"]
        hashes = one["download_info"].get("archive_info", {}).get("hashes", {})
        if "sha256" not in hashes:
            raise ValueError(f"pip reports no hash of {name} {number}")
        found[name.lower().replace("_", "-"), number] = {f"sha256:{hashes['sha256']}"}
    return found


def requirements(hashes: dict[tuple[str, str], set[str]], ours: str) -> str:
    """Return the text of a requirements file for `pip install --require-hashes`."""
    lines = [f"# Python {PYTHON} on Linux, {' or '.join(PLATFORMS)}; written by deploy/ci/vendor.py of policyengine."]
    for (name, number), known in sorted(hashes.items()):
        extra = f"[{EXTRA}]" if name == ours else ""
        lines.append(" \\\n    ".join([f"{name}{extra}=={number}", *(f"--hash={one}" for one in sorted(known))]))
    return "\n".join(lines) + "\n"


def distribution(wheel: Path) -> str:
    return wheel.name.split("-")[0].replace("_", "-")


def version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python deploy/ci/vendor.py FOLDER")
    print(f"wrote {vendor(Path(sys.argv[1]))}: commit it together with the wheel")
