"""The pytest plugin: `.policy` files are collected, and Python tests ask policies by the fixture `policy`.

Every pytest in whose environment we are installed imports this module, so it imports nothing before it is wanted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from policyengine.testing.pytest.collect import PolicyFile
    from policyengine.testing.pytest.fixture import Policy

SUFFIX = ".policy"
MARKER = "policy(*paths, entities=None, now=None): the policies that the fixture `policy` asks"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("policies", "tests of agent policies")
    group.addoption("--policies", action="store_true", help="collect tests in .policy files")
    group.addoption(
        "--policies-seed", type=int, default=0, metavar="N", help="which requests `forall` is tried with (default: 0)"
    )
    group.addoption("--policies-examples", type=int, metavar="N", help="how many requests each `forall` is tried with")
    parser.addini("policies", "collect tests in .policy files, as with --policies", type="bool", default=False)
    parser.addini("policy_paths", "the policies that the fixture `policy` asks", type="paths", default=[])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> PolicyFile | None:
    """A `.policy` file, where they are wanted or it is named itself."""
    if file_path.suffix != SUFFIX:
        return None
    config = parent.config
    if not (config.getoption("--policies") or config.getini("policies") or parent.session.isinitpath(file_path)):
        return None
    from policyengine.testing.pytest.collect import PolicyFile

    return PolicyFile.from_parent(parent, path=file_path)


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> Policy:
    """The policies of the marker `policy`, else of the setting `policy_paths`; called with paths, those."""
    from policyengine.testing.pytest.fixture import Policy

    base, marker = request.config.rootpath, request.node.get_closest_marker("policy")
    if marker is not None:
        return Policy(*marker.args, **marker.kwargs, base=base)
    return Policy(*request.config.getini("policy_paths"), base=base)
