"""`policyengine fmt`: in place, as a check, as a diff, from stdin to stdout."""

import pytest

CANONICAL = "anyone { may GET /health }\n"
OTHER = "anyone   {may GET /health}  \n\n\n"
BROKEN = "anyone { may GET\n"


@pytest.fixture
def other(run, tmp_path):
    path = tmp_path / "other.policy"
    path.write_text(OTHER)
    return path


def test_fmt_rewrites_a_file_in_canonical_form(run, other):
    ended = run("fmt", "other.policy")
    assert ended.code == 0
    assert other.read_text() == CANONICAL
    assert ended.out.startswith("reformatted other.policy\n")


def test_fmt_does_not_write_a_canonical_file(run, other):
    other.write_text(CANONICAL)
    before = other.stat().st_mtime_ns
    ended = run("fmt", "other.policy")
    assert ended.code == 0
    assert other.stat().st_mtime_ns == before
    assert ended.out == "0 files changed, 1 file already canonical\n"


def test_fmt_check_changes_nothing_and_exits_with_1(run, other):
    ended = run("fmt", "--check", ".")
    assert ended.code == 1
    assert other.read_text() == OTHER
    assert ended.out.startswith("would reformat other.policy\n")


def test_fmt_check_of_canonical_files_exits_with_0(run, other):
    other.write_text(CANONICAL)
    assert run("fmt", "--check", ".").code == 0


def test_fmt_diff_changes_nothing(run, other):
    ended = run("fmt", "--diff", "other.policy")
    assert ended.code == 0
    assert other.read_text() == OTHER
    assert ended.out.startswith("--- other.policy\n+++ other.policy\n@@ ")
    assert "-anyone   {may GET /health}" in ended.out
    assert "+anyone { may GET /health }" in ended.out


def test_fmt_check_with_diff_exits_with_1(run, other):
    assert run("fmt", "--check", "--diff", "other.policy").code == 1


def test_fmt_writes_formatted_stdin_to_stdout(run):
    ended = run("fmt", "-", stdin=OTHER.encode())
    assert (ended.code, ended.out, ended.err) == (0, CANONICAL, "")


def test_fmt_check_accepts_stdin(run):
    assert run("fmt", "--check", "-", stdin=OTHER.encode()).code == 1
    assert run("fmt", "--check", "-", stdin=CANONICAL.encode()).code == 0


def test_fmt_leaves_a_file_with_syntax_errors_unchanged_and_formats_the_others(run, other, tmp_path):
    (tmp_path / "broken.policy").write_text(BROKEN)
    ended = run("fmt", ".")
    assert ended.code == 1
    assert "broken.policy:" in ended.err
    assert ended.out.endswith("1 file changed, 1 file with mistakes left unchanged\n")
    assert (tmp_path / "broken.policy").read_text() == BROKEN
    assert other.read_text() == CANONICAL


def test_fmt_prints_nothing_for_stdin_with_syntax_errors(run):
    ended = run("fmt", "-", stdin=BROKEN.encode())
    assert (ended.code, ended.out) == (1, "")
    assert "stdin:" in ended.err


def test_fmt_prints_the_result_as_one_json_document(run, other, tmp_path):
    (tmp_path / "broken.policy").write_text(BROKEN)
    ended = run("fmt", ".", "--format", "json")
    broken, changed = ended.json["files"]
    assert ended.code == 1
    assert (broken["file"], broken["changed"], broken["diagnostics"][0]["severity"]) == (
        "broken.policy",
        False,
        "error",
    )
    assert (changed["file"], changed["changed"], changed["diagnostics"]) == ("other.policy", True, [])


def test_fmt_json_for_stdin_contains_the_formatted_text(run):
    assert run("fmt", "-", "--format", "json", stdin=OTHER.encode()).json["files"][0]["text"] == CANONICAL


def test_fmt_diff_shows_changed_line_ends(run, other):
    other.write_bytes(CANONICAL.replace("\n", "\r\n").encode())
    assert "-anyone { may GET /health }\\r\n" in run("fmt", "--diff", "other.policy").out


def test_fmt_keeps_the_mode_of_a_file(run, other):
    other.chmod(0o640)
    run("fmt", "other.policy")
    assert other.stat().st_mode & 0o777 == 0o640


def test_fmt_keeps_a_symbolic_link(run, other, tmp_path):
    link = tmp_path / "link.policy"
    link.symlink_to(other)
    run("fmt", "link.policy")
    assert link.is_symlink()
    assert other.read_text() == CANONICAL


def test_fmt_leaves_no_temporary_files(run, other, tmp_path):
    run("fmt", ".")
    assert list(tmp_path.iterdir()) == [other]


def test_hidden_folders_are_not_formatted(run, tmp_path):
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "other.policy").write_text(OTHER)
    (tmp_path / "good.policy").write_text(CANONICAL)
    run("fmt", ".")
    assert (tmp_path / ".hidden" / "other.policy").read_text() == OTHER


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere.policy", "`nowhere.policy`: no such file"), ("empty", "no policies in `empty`")]
)
def test_fmt_reports_a_missing_file_and_an_empty_folder(run, tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    ended = run("fmt", name)
    assert ended.code == 1
    assert message in ended.err


def test_a_binary_file_is_an_error(run, tmp_path):
    (tmp_path / "binary.policy").write_bytes(b"\xff\xfe")
    ended = run("fmt", "binary.policy")
    assert ended.code == 1
    assert ended.err.startswith("binary.policy:1:1: E")
    assert (tmp_path / "binary.policy").read_bytes() == b"\xff\xfe"
