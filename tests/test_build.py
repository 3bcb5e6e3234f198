"""What runs is the build that is said: a checkout its own source, and a compiled build every compiled module."""

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


def test_the_hook_names_modules():
    assert len(COMPILED) >= 20
    assert HOOK["enable-by-default"] is False


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_either_every_module_of_the_hook_is_compiled_or_none(path):
    spec = find_spec(".".join(path.relative_to(CHECKOUT).with_suffix("").parts))
    assert spec is not None
    assert spec.origin is not None
    assert spec.origin.endswith(".py") is not is_compiled()
