"""The public sets that `shape` and `behavior` measure: `python -m bench.public_sets` fetches them into `.public-sets/`.

They are packages that pip and apt install: payloads of attacks (`fray` and `wfuzz`), the tests of the OWASP Core Rule
Set (the source of `modsecurity-crs`), tables of records (`vega-datasets`), and tasks of LLM agents (`agentdojo` and
`bfcl-eval`). Only their data are read: nothing of them is imported, and what they depend on is not installed. Without
apt, the sets of Debian are left out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

SETS: Final = Path(__file__).parents[1] / ".public-sets"
PACKAGES: Final = ("agentdojo==0.1.35", "bfcl-eval==2026.3.23", "fray==3.5.249", "vega-datasets==0.9.0")
PYTHON: Final = SETS / "python"
WFUZZ: Final = SETS / "wfuzz"
CORE_RULE_SET: Final = SETS / "core-rule-set"
LISTS_OF_WFUZZ: Final = Path("usr", "share", "wfuzz", "wordlist", "Injections")
SOURCES: Final = Path("/etc/apt/sources.list.d")


def package_folder(package: str, *parts: str) -> Path | None:
    """Return a folder of a fetched or an installed package. The package is not imported."""
    found = find_spec(package)
    installed = (found.submodule_search_locations or ()) if found else ()
    folders = [Path(folder, *parts) for folder in (str(PYTHON / package), *installed)]
    return next((folder for folder in folders if folder.is_dir()), None)


def fetch() -> None:
    """Fetch all sets. Raises CalledProcessError if a package cannot be fetched."""
    shutil.rmtree(SETS, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--target", str(PYTHON), *PACKAGES], check=True)
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        fetch_wfuzz()
        fetch_core_rule_set()


def fetch_wfuzz() -> None:
    """Fetch the lists of wfuzz from its package, which is not installed."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "wfuzz"], check=True, cwd=folder)
        subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")), "content"], check=True, cwd=folder)
        shutil.copytree(folder / "content" / LISTS_OF_WFUZZ, WFUZZ)


def fetch_core_rule_set() -> None:
    """Fetch the tests of the Core Rule Set from the source package. The sources of apt stay as they are."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "lists" / "partial").mkdir(parents=True)
        (folder / "list.sources").write_text(source_entries())
        options = {
            "Dir::Etc::sourcelist": folder / "list.sources", "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": folder / "lists", "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": "",
            "APT::Sandbox::User": "root",
        }  # fmt: skip
        apt = ["apt-get", "-q", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
        subprocess.run([*apt, "update"], check=True, cwd=folder)
        subprocess.run([*apt, "source", "--download-only", "modsecurity-crs"], check=True, cwd=folder)
        with tarfile.open(next(folder.glob("*.orig.tar.gz"))) as archive:
            archive.extractall(folder / "content", filter="data")
        shutil.copytree(next((folder / "content").glob("*/tests/regression/tests")), CORE_RULE_SET)


def source_entries() -> str:
    """Return the package archives of this machine, as archives of sources."""
    entries = [file.read_text() for file in sorted(SOURCES.glob("debian*.sources"))]
    return "\n\n".join(entries).replace("Types: deb\n", "Types: deb-src\n")


if __name__ == "__main__":
    fetch()
