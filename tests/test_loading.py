"""Which files are read, in which order, under which names; and what is said about those that cannot be."""

import os
from pathlib import Path

import pytest

from policyengine import Engine, policy_files
from policyengine.policy_files import MAX_POLICY_BYTES, load_sources, policy_sets


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, text: str = "") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def names(*paths: str | Path) -> list[str]:
    sources, problems = load_sources(paths)
    assert not problems
    return [source.name for source in sources]


def told(*paths: str | Path) -> list[tuple[str, str, str]]:
    return [(p.code, p.span.source.name, p.message) for p in load_sources(paths)[1]]


def test_a_folder_is_read_recursively_and_sorted() -> None:
    for path in ("p/b.policy", "p/a.policy", "p/in/c.policy", "p/notes.md"):
        write(path)
    assert names("p") == ["p/a.policy", "p/b.policy", "p/in/c.policy"]


def test_hidden_files_and_folders_are_left_out() -> None:
    for path in ("p/a.policy", "p/.b.policy", "p/.git/c.policy"):
        write(path)
    assert names("p") == ["p/a.policy"]


def test_a_file_is_read_whatever_its_name() -> None:
    write("x.txt", "anyone { }")
    assert load_sources(["x.txt"])[0][0].text == "anyone { }"


def test_a_file_given_twice_counts_once(here: Path) -> None:
    write("p/a.policy")
    assert names("p/a.policy", "p", here / "p") == ["p/a.policy"]


def test_an_absolute_path_inside_the_current_folder_gets_a_relative_name(here: Path) -> None:
    write("p/a.policy")
    assert names(here / "p/a.policy") == ["p/a.policy"]


def test_an_absolute_path_outside_the_current_folder_keeps_its_name(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("p/a.policy")
    write("q/b.policy")
    monkeypatch.chdir("q")
    assert names(here / "p/a.policy") == [(here / "p/a.policy").as_posix()]


@pytest.mark.parametrize("common", ["acme/common.policy", "acme/common/one.policy"])
@pytest.mark.parametrize("given", ["acme/pay.policy", "acme/pay/all.policy"])
def test_imports_are_found_from_the_folder_above_the_package(common: str, given: str) -> None:
    write(given, "# pay\nlanguage 1\npackage acme.pay # it is\nimport acme.common as c # shared\n")
    write(common, "package acme.common\n")
    assert names(given) == [given, common]


def test_imports_are_found_from_the_folder_given() -> None:
    write("root/any/pay.policy", "package x.y import acme.common")
    write("root/acme/common.policy", "package acme.common")
    assert sorted(names("root")) == ["root/acme/common.policy", "root/any/pay.policy"]


def test_imports_of_a_file_without_a_package_are_found_next_to_it() -> None:
    write("p/a.policy", "import common")
    write("p/common.policy", "package common")
    assert names("p/a.policy") == ["p/a.policy", "p/common.policy"]


def test_circular_imports_are_followed() -> None:
    write("a.policy", "package a import b")
    write("b.policy", "package b import c")
    write("c.policy", "package c import a")
    assert names("a.policy") == ["a.policy", "b.policy", "c.policy"]


@pytest.mark.parametrize("text", ["# import b\n", "anyone { }\nimport b", 'let x = "import b"'])
def test_only_imports_at_the_head_of_a_file_are_followed(text: str) -> None:
    write("a.policy", text)
    write("b.policy")
    assert names("a.policy") == ["a.policy"]


def test_loading_ignores_an_import_without_a_file() -> None:
    write("a.policy", "import nowhere.to.be.found")
    assert names("a.policy") == ["a.policy"]


def test_a_folder_that_links_to_itself_is_read_once() -> None:
    write("p/a.policy")
    os.symlink("../p", "p/again")
    assert names("p") == ["p/a.policy"]


def test_a_linked_folder_is_followed() -> None:
    write("elsewhere/a.policy")
    os.makedirs("p")
    os.symlink("../elsewhere", "p/in")
    assert names("p") == ["p/in/a.policy"]


def test_a_missing_file_is_reported() -> None:
    assert told("none.policy") == [("E151", "none.policy", "the file does not exist")]


def test_a_dangling_link_is_reported() -> None:
    os.makedirs("p")
    os.symlink("gone.policy", "p/a.policy")
    assert told("p") == [("E151", "p/a.policy", "the file does not exist")]


def test_a_link_to_itself_is_reported() -> None:
    os.symlink("a.policy", "a.policy")
    assert [code for code, *_ in told("a.policy")] == ["E152"]


def test_a_pipe_is_reported_as_no_regular_file() -> None:
    os.mkfifo("a.policy")
    assert told("a.policy") == [("E152", "a.policy", "this is not a regular file")]


def test_a_path_with_a_nul_is_reported() -> None:
    assert [code for code, *_ in told("a\0b")] == ["E152"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_reported() -> None:
    write("a.policy")
    os.chmod("a.policy", 0)
    assert told("a.policy") == [("E152", "a.policy", "this file cannot be read: permission denied")]


def test_an_unreadable_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    write("p/in/a.policy")
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("in"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert told("p") == [("E152", "p/in", "this folder cannot be read: permission denied")]


def test_a_file_over_the_size_limit_is_reported() -> None:
    with open("a.policy", "wb") as file:
        file.truncate(MAX_POLICY_BYTES + 1)
    assert [code for code, *_ in told("a.policy")] == ["E153"]


def test_a_file_that_is_not_utf_8_is_reported_and_the_others_are_read() -> None:
    write("p/a.policy")
    Path("p/b.policy").write_bytes(b"\xff")
    sources, problems = load_sources(["p"])
    assert [source.name for source in sources] == ["p/a.policy"]
    assert [(p.code, p.span.source.name) for p in problems] == [("E100", "p/b.policy")]


def test_test_files_are_left_out_on_request() -> None:
    for path in ("p/a.policy", "p/a_test.policy"):
        write(path)
    assert names("p") == ["p/a.policy", "p/a_test.policy"]
    assert [source.name for source in load_sources(["p", "p/a_test.policy"], tests=False)[0]] == ["p/a.policy"]


# ── Marked roots ──────────────────────────────────────────────────────────────────────────────


def test_each_marked_root_in_a_folder_is_a_separate_set() -> None:
    for path in ("p/one/.policyroot", "p/one/in/a.policy", "p/two/.policyroot", "p/two/b.policy", "q/c.policy"):
        write(path)
    assert policy_sets(["p", "q"]) == [(Path("q"),), (Path("p/one"),), (Path("p/two"),)]
    assert policy_sets(["p/one", "q"]) == [(Path("p/one"), Path("q"))]
    assert policy_sets(["p/one/in"]) == [(Path("p/one/in"),)]
    assert policy_sets(["nowhere"]) == [(Path("nowhere"),)]


def test_policies_outside_marked_roots_are_a_set() -> None:
    for path in ("p/one/.policyroot", "p/one/a.policy", "p/unmarked/b.policy", "p/c.policy"):
        write(path)
    assert policy_sets(["p"]) == [(Path("p/c.policy"), Path("p/unmarked/b.policy")), (Path("p/one"),)]


def test_loading_several_policy_sets_is_rejected() -> None:
    for path in ("p/one/.policyroot", "p/one/a.policy", "p/two/.policyroot", "p/two/b.policy"):
        write(path)
    sources, (found,) = load_sources(["p"])
    assert not sources
    assert (found.code, found.span.source.name, found.hint) == ("E154", "p", "pass one of them: `p/one`, `p/two`")


def test_imports_and_labels_are_relative_to_the_marked_root() -> None:
    write("p/.policyroot")
    write("p/acme/pay.policy", "import shared.words\n")
    write("p/shared/words.policy", "package shared.words\n")
    write("p/acme/shared/words.policy", "package shared.words\n")
    for given in ("p/acme/pay.policy", "p/acme"):
        sources, problems = load_sources([given])
        assert not problems
        assert "shared/words.policy" in {source.label for source in sources}
        assert sources[0].label == "acme/pay.policy"


def test_a_file_written_while_it_is_read_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.policy", "anyone { may GET /a }\n")
    read = policy_files.read_source

    def slow(name: str, data: bytes) -> object:
        write("a.policy", "anyone { may GET /a }\nanyone { may GET /b }\n")
        return read(name, data)

    monkeypatch.setattr(policy_files, "read_source", slow)
    assert told("a.policy") == [("E152", "a.policy", "this file changed while it was being read")]
    monkeypatch.undo()


def test_a_file_replaced_while_it_is_read_keeps_its_old_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a rename: whoever has it open reads all of the old one."""
    write("a.policy", "anyone { may GET /a }\n")
    read = policy_files.read_source

    def slow(name: str, data: bytes) -> object:
        write("b", "anyone { may GET /b }\n")
        os.replace("b", "a.policy")
        return read(name, data)

    monkeypatch.setattr(policy_files, "read_source", slow)
    sources, problems = load_sources(["a.policy"])
    assert ([source.text for source in sources], problems) == (["anyone { may GET /a }\n"], [])


def test_an_empty_folder_is_reported_only_among_several_paths() -> None:
    os.makedirs("guards")
    write("doors/a.policy")
    assert told("doors", "guards") == [("E156", "guards", "this folder contains no policy")]
    assert told("guards") == []
    write("guards/a_test.policy")
    assert told("doors", "guards") == []


def test_a_declaration_that_only_a_test_file_uses_is_no_warning_of_the_engine(tmp_path: Path) -> None:
    (tmp_path / "client.policy").write_text("language 1\nentity client {}\nanyone { may GET /health }\n")
    (tmp_path / "client_test.policy").write_text('language 1\ntest "t" { ACTION ask client "a" => deny }\n')
    assert Engine.load(tmp_path).warnings == ()
