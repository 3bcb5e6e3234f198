"""The file of a socket: whose it is, what it may take the place of, and why there is none."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from policyengine.server import ServeError
from policyengine.server.listeners import socket_error, unix_listener


def refusal(path: Path) -> ServeError:
    with pytest.raises(ServeError) as error, unix_listener(path, 0o600):
        pytest.fail("it listens")
    return error.value


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_file_has_its_mode_and_is_removed_afterwards(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.sock"
    with unix_listener(path, mode):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert not path.exists()


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with unix_listener(path, 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_in_use_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with unix_listener(path, 0o600):
        assert refusal(path).message == f"another server listens on `{path}`"
    assert not path.exists()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("/nowhere")])
def test_a_file_that_is_not_a_socket_is_not_replaced(tmp_path: Path, make: object) -> None:
    path = tmp_path / "a.sock"
    make(path)  # type: ignore[operator]
    assert refusal(path).message == f"`{path}` exists and is not a socket"
    assert os.path.lexists(path)


def test_a_file_that_replaced_the_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with unix_listener(path, 0o600):
        path.unlink()
        path.touch()
    assert path.exists()


def test_a_socket_path_that_is_too_long_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 60)
    assert refusal(path).message == f"`{path}` is longer than 107 bytes, too long for a socket"


def test_the_error_names_a_missing_socket_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none" / "a.sock").message == f"there is no directory `{tmp_path}/none` for the socket"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), "a socket at `a.sock` is not permitted"),
        (OSError(98, "Address already in use"), "another server listens on `a.sock`"),
        (OSError(5, "Input/output error"), "cannot listen on `a.sock`: input/output error"),
    ],
)
def test_socket_errors_have_readable_messages(error: OSError, message: str) -> None:
    assert socket_error(error, Path("a.sock")).message == message
