"""The pytest plugin: collects `.policy` files, and defines the fixture `policy`.

Every pytest run imports this module if policyengine is installed, so it imports everything else only when needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from policyengine.testing.pytest.collect import PolicyFile
    from policyengine.testing.pytest.fixture import Policy

SUFFIX = ".policy"
MARKER = "policy(*paths, entities=None, now=None): the policies of the fixture `policy`"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("policies", "tests of agent policies")
    group.addoption("--policies", action="store_true", help="collect tests in .policy files")
    group.addoption(
        "--policies-seed", type=int, default=0, metavar="N", help="seed for the requests of `forall` (default: 0)"
    )
    group.addoption("--policies-examples", type=int, metavar="N", help="number of requests for each `forall`")
    parser.addini("policies", "collect tests in .policy files, as with --policies", type="bool", default=False)
    parser.addini("policy_paths", "the policies of the fixture `policy`", type="paths", default=[])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> PolicyFile | None:
    """Collect a `.policy` file if `.policy` files are enabled or it is named explicitly; otherwise return None."""
    if file_path.suffix != SUFFIX:
        return None
    config = parent.config
    if not (config.getoption("--policies") or config.getini("policies") or parent.session.isinitpath(file_path)):
        return None
    from policyengine.testing.pytest.collect import PolicyFile

    return PolicyFile.from_parent(parent, path=file_path)


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> Policy:
    """The policies of the marker `policy`, or of the setting `policy_paths`; call it with paths to use others."""
    from policyengine.testing.pytest.fixture import Policy

    base, marker = request.config.rootpath, request.node.get_closest_marker("policy")
    if marker is not None:
        return Policy(*marker.args, **marker.kwargs, base=base)
    return Policy(*request.config.getini("policy_paths"), base=base)
