from collections.abc import Iterator

import pytest

from tests.server.authzen.asking import TOKEN, Call, caller, example, served


@pytest.fixture(scope="package", params=["in process", "on a port"])
def call(request: pytest.FixtureRequest) -> Iterator[Call]:
    """The fixture of the certification: every promise holds for the application and for the real server."""
    if request.param == "in process":
        yield caller(example("authzen"))
        return
    with served("authzen") as served_call:
        yield served_call


@pytest.fixture(scope="package")
def guarded() -> Call:
    """The same with a token."""
    return caller(example("authzen"), token=TOKEN)
