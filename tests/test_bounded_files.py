"""Files and streams are read within bounds: what never ends is refused with one message."""

import os
from io import BytesIO

import pytest

from policyengine.bounded_files import begins_with, read_bounded, read_lines, read_stream


def test_a_file_over_the_bound_is_rejected(tmp_path):
    file = tmp_path / "some"
    file.write_bytes(b"12345")
    assert read_bounded(file, 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_bounded(file, 4)


def test_a_sparse_file_is_not_read_to_its_end(tmp_path):
    file = tmp_path / "sparse"
    with file.open("wb") as sparse:
        sparse.truncate(10 * 2**30)
    with pytest.raises(OSError, match="more than 1,000 bytes"):
        read_bounded(file, 1_000)


@pytest.mark.parametrize("what", ["device", "pipe", "folder"])
def test_a_device_pipe_or_folder_is_rejected_without_waiting(tmp_path, what):
    path = tmp_path / "some"
    match what:
        case "device":
            path = "/dev/zero"
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
    for read in (lambda: read_bounded(path, 10), lambda: begins_with(path, b"a")):
        with pytest.raises(OSError, match=r"(?i)is a directory|a device or a pipe"):
            read()


def test_a_stream_over_the_bound_is_rejected(tmp_path):
    assert read_stream(BytesIO(b"123"), 3) == b"123"
    with open("/dev/zero", "rb") as endless, pytest.raises(OSError, match="more than 9 bytes"):
        read_stream(endless, 9)


def test_read_lines_numbers_lines_and_rejects_a_too_long_one():
    lines = read_lines(BytesIO(b"1\n22\n4444\n"), 3)
    assert [next(lines), next(lines)] == [(1, b"1\n"), (2, b"22\n")]
    with pytest.raises(OSError, match="line 3 contains more than 3 bytes"):
        next(lines)
