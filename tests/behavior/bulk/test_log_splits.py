"""Parts of logs: wherever a file is divided, each line is read once, with the same messages about damaged lines."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.audit.query.pack import pack_log
from policyengine.behavior.bulk import log_splits
from policyengine.behavior.bulk.log_lines import LineDecoder, read_log_lines
from policyengine.behavior.bulk.log_splits import WHOLE, SplitNotes, read_split, renumber, split_logs
from tests.behavior.bulk.logs import make_lines, write_lines

DAMAGED = b'\xef\xbb\xbfno json\n\n{"v":2,\n{"v":9}\n' + b"x" * 5_000 + b"\n"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = write_lines(tmp_path_factory.mktemp("splits") / "log.jsonl", make_lines(4, agents=2, days=1))
    path.write_bytes(DAMAGED + path.read_bytes() + DAMAGED + path.read_bytes().splitlines()[-1][:-4])
    return path


def read_parts(logs, size):
    lines, messages, before = [], [], {}
    for split in split_logs(logs, size):
        notes = SplitNotes(messages=[])
        lines += read_split(split, LineDecoder(None), notes)
        messages += [renumber(message, split, before.get(split.path, 0)) for message in notes.messages]
        before[split.path] = before.get(split.path, 0) + notes.lines
    return lines, messages


@given(size=st.integers(50, 30_000))
def test_every_line_is_read_once_wherever_a_file_is_divided(log, size):
    told = []
    whole = list(read_log_lines(log, LineDecoder(None), told.append))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_splits, "KEPT_MESSAGES", 100)
        assert read_parts([log], size) == (whole, told)


def test_only_the_first_messages_about_a_part_are_kept(log):
    [split] = split_logs([log])
    notes = SplitNotes(messages=[])
    list(read_split(split, LineDecoder(None), notes))
    assert (len(notes.messages), notes.skipped) == (3, 9)


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_file_is_divided_between_lines_and_in_them(tmp_path, ending):
    path = write_lines(tmp_path / "log.jsonl", make_lines(4, agents=1, days=1)[:2])
    raw = path.read_bytes().removesuffix(b"\n") + ending
    path.write_bytes(raw)
    for size in range(1, len(raw) + 2):
        assert len(read_parts([path], size)[0]) == 2


def test_a_line_that_is_longer_than_a_part_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr("policyengine.behavior.bulk.log_splits.PIECE_BYTES", 64)
    path = write_lines(tmp_path / "log.jsonl", make_lines(4, agents=1, days=1)[:3])
    assert len(read_parts([path], 100)[0]) == 3


def test_compressed_and_packed_files_are_not_divided(log, tmp_path):
    (tmp_path / "log.jsonl.1.gz").write_bytes(gzip.compress(log.read_bytes()))
    write_lines(tmp_path / "log.jsonl", make_lines(5, agents=1, days=1))
    pack_log([tmp_path / "log.jsonl"], tmp_path / "log.parquet")
    parts = split_logs([tmp_path / "log.jsonl", tmp_path / "log.parquet"], 500)
    assert [(part.log, part.number, part.end == WHOLE) for part in parts if part.end == WHOLE] == [
        (0, 0, True), (1, 0, True),
    ]  # fmt: skip
    told = []
    whole = [line for path in (tmp_path / "log.jsonl", tmp_path / "log.parquet")
             for line in read_log_lines(path, LineDecoder(None), told.append)]  # fmt: skip
    assert read_parts([tmp_path / "log.jsonl", tmp_path / "log.parquet"], 500)[0] == whole


def test_an_empty_file_has_no_part(tmp_path):
    (tmp_path / "log.jsonl").touch()
    assert split_logs([tmp_path / "log.jsonl"]) == []
