"""`policyengine compile`: one file that decides as its policies do."""

import os
import re
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from policyengine.compiler.bundle.file import read_bundle
from policyengine.engine import Engine
from tests.compiler.hostile import bundled, members_of


@pytest.fixture
def key(run, tmp_path):
    private = Ed25519PrivateKey.generate()
    (tmp_path / "private.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return private


def test_a_project_is_compiled_into_a_bundle(run, project, tmp_path):
    ended = run("compile", "project", "-o", "p.policybundle")
    assert (ended.code, ended.err) == (0, "")
    size = (tmp_path / "p.policybundle").stat().st_size
    assert ended.out.startswith("compiled 6 rules of main into p.policybundle: ")
    assert f"{size:,} bytes\n" in ended.out
    assert read_bundle(tmp_path / "p.policybundle").kernel == Engine.load(project).kernel


def test_compile_describes_the_bundle_as_json(run, project, tmp_path):
    told = run("compile", "project", "-o", "p.policybundle", "--format", "json").json
    bundle = read_bundle(tmp_path / "p.policybundle")
    assert told == {
        "file": "p.policybundle",
        "bytes": (tmp_path / "p.policybundle").stat().st_size,
        "packages": ["main"],
        "rules": 6,
        "revision": bundle.kernel.revision,
        "digest": f"sha256:{bundle.digest}",
        "signed_by": None,
        "warnings": 0,
    }


def test_the_same_policies_make_the_same_file(run, project, tmp_path):
    run("compile", "project", "-o", "one.policybundle")
    run("compile", tmp_path / "project", "-o", "two.policybundle")
    assert (tmp_path / "one.policybundle").read_bytes() == (tmp_path / "two.policybundle").read_bytes()


def test_compile_signs_the_bundle_with_the_given_key(run, project, tmp_path, key):
    ended = run("compile", "project", "-o", "p.policybundle", "--key", "private.pem")
    bundle = read_bundle(tmp_path / "p.policybundle", keys=[key.public_key().public_bytes_raw()])
    assert f"signed by:  {bundle.signed_by[0]}\n" in ended.out


def test_compile_leaves_tests_out_of_the_bundle(run, project, tmp_path):
    (tmp_path / "project" / "more_test.policy").write_text('test "t" { GET /secret => deny }\n')
    assert run("compile", "project", "-o", "p.policybundle").code == 0
    assert b"/secret" not in (tmp_path / "p.policybundle").read_bytes()


def test_a_policy_with_errors_cannot_be_compiled_to_a_bundle(run, tmp_path):
    (tmp_path / "bad.policy").write_text("anyone { may GET /a when nonsense }\n")
    ended = run("compile", "bad.policy", "-o", "p.policybundle")
    assert ended.code == 1
    assert "E202" in ended.err
    assert not (tmp_path / "p.policybundle").exists()


def test_compile_counts_warnings(run, tmp_path):
    (tmp_path / "warned.policy").write_text('language 1\nanyone { may GET /health }\nguard "a" on GET /none { deny }\n')
    ended = run("compile", "warned.policy", "-o", "p.policybundle")
    assert ended.code == 0
    assert ended.out.endswith("1 warning: `policyengine check` shows them\n")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("nowhere.pem", "key", "`nowhere.pem`: this key cannot be read: no such file or directory"),
        ("project/documents.policy", "key", "`project/documents.policy`: this is not a private key in PEM"),
    ],
)
def test_compile_reports_an_unusable_key(run, project, tmp_path, name, kind, message):
    ended = run("compile", "project", "-o", "p.policybundle", "--key", name, "--format", "json")
    assert ended.code == 1
    assert (ended.json["error"]["kind"], ended.json["error"]["message"]) == (kind, message)
    assert ended.json["error"]["file"] == name
    assert not (tmp_path / "p.policybundle").exists()


@pytest.mark.parametrize(
    "options", [[], ["-o", "p.policybundle", "--show"], ["-o", "p.policybundle", "--verify"], ["--show", "--verify"]]
)
def test_compile_requires_exactly_one_action(run, project, options):
    ended = run("compile", "project", *options)
    assert ended.code == 2
    assert "pass one of `-o FILE`, `--show` and `--verify`" in ended.err


def test_compile_show_prints_the_rules_at_each_endpoint_with_source_lines(run, project, tmp_path):
    ended = run("compile", "project", "--show")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == Engine.load(project).describe_program().render()
    assert re.search(r"  documents\.policy:\d+$", ended.out, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


def test_compile_show_prints_the_rules_as_json(run, project):
    shown = run("compile", "project", "--show", "--format", "json").json
    assert shown == Engine.load(project).describe_program().to_dict()


def test_compile_show_prints_the_same_for_a_bundle(run, project):
    run("compile", "project", "-o", "p.policybundle")
    assert run("compile", "p.policybundle", "--show").out == run("compile", "project", "--show").out


# ── Whether a bundle is what its texts say ────────────────────────────────────────────────────


def test_verify_accepts_a_bundle_that_is_what_its_policy_texts_say(run, project, tmp_path, key):
    (tmp_path / "public.key").write_bytes(key.public_key().public_bytes_raw())
    written = run("compile", "project", "-o", "p.policybundle", "--key", "private.pem", "--format", "json").json
    ended = run("compile", "p.policybundle", "--verify", "--trust", "public.key")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("verified: p.policybundle has exactly the 6 rules of its policy texts, main\n")
    assert f"signed by:  {written['signed_by']}\n" in ended.out
    shown = run("compile", "p.policybundle", "--verify", "--trust", "public.key", "--format", "json").json
    assert shown == {
        "file": "p.policybundle",
        "packages": ["main"],
        "rules": 6,
        "revision": written["revision"],
        "digest": written["digest"],
        "signed_by": [written["signed_by"]],
    }


def test_verify_accepts_a_bundle_that_was_written_again(run, project):
    run("compile", "project", "-o", "one.policybundle")
    run("compile", "one.policybundle", "-o", "two.policybundle")
    assert run("compile", "two.policybundle", "--verify").code == 0


def test_verify_rejects_a_bundle_without_one_of_its_rules(run, project, tmp_path):
    run("compile", "project", "-o", "p.policybundle")
    members = members_of((tmp_path / "p.policybundle").read_bytes())
    members["guards"].pop()
    (tmp_path / "p.policybundle").write_bytes(bundled(members))
    ended = run("compile", "p.policybundle", "--verify", "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "bundle")
    assert ended.json["error"]["message"].startswith("the rules of `p.policybundle` differ from its policy texts: ")
    assert ended.json["error"]["file"] == "p.policybundle"


def test_verify_rejects_a_bundle_that_no_trusted_key_signed(run, project, tmp_path, key):
    (tmp_path / "public.key").write_bytes(key.public_key().public_bytes_raw())
    run("compile", "project", "-o", "p.policybundle")
    ended = run("compile", "p.policybundle", "--verify", "--trust", "public.key")
    assert ended.code == 1
    assert "E163" in ended.err


@pytest.mark.parametrize("paths", [["project"], ["p.policybundle", "p.policybundle"]])
def test_verify_requires_one_bundle(run, project, paths):
    run("compile", "project", "-o", "p.policybundle")
    ended = run("compile", *paths, "--verify")
    assert ended.code == 2
    assert "`--verify` needs one bundle: `….policybundle`" in ended.err


# ── Where it is written ───────────────────────────────────────────────────────────────────────


def test_compile_replaces_an_existing_bundle_atomically(run, project, tmp_path):
    run("compile", "project", "-o", "p.policybundle")
    inode = (tmp_path / "p.policybundle").stat().st_ino
    with (tmp_path / "p.policybundle").open("rb") as still_read:
        assert run("compile", "project", "-o", "p.policybundle").code == 0
        assert still_read.read() == (tmp_path / "p.policybundle").read_bytes()
    assert (tmp_path / "p.policybundle").stat().st_ino != inode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.policybundle", "project"]


def test_compile_through_a_link_replaces_its_target(run, project, tmp_path):
    run("compile", "project", "-o", "real.policybundle")
    (tmp_path / "link.policybundle").symlink_to("real.policybundle")
    before = (tmp_path / "real.policybundle").stat().st_ino
    assert run("compile", "project", "-o", "link.policybundle").code == 0
    assert (tmp_path / "link.policybundle").is_symlink()
    assert (tmp_path / "real.policybundle").stat().st_ino != before


def test_a_new_bundle_has_the_permissions_given_by_the_umask(run, project, tmp_path):
    before = os.umask(0o027)
    try:
        run("compile", "project", "-o", "p.policybundle")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "p.policybundle").stat().st_mode) == 0o640


def test_compile_does_not_overwrite_a_file_that_is_not_a_bundle(run, project, tmp_path):
    before = (project / "documents.policy").read_bytes()
    ended = run("compile", "project", "-o", "project/documents.policy")
    assert ended.code == 1
    assert ended.err.startswith("error: `project/documents.policy` exists and is not a bundle, so it is not replaced\n")
    assert (project / "documents.policy").read_bytes() == before


@pytest.mark.parametrize("name", ["project", "/", "nowhere/p.policybundle", "x" * 300, "/dev/null", "/dev/full"])
def test_an_output_path_that_cannot_be_written_is_an_error(run, project, name):
    ended = run("compile", "project", "-o", name, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"], ended.json["error"]["file"]) == (1, "file", name)
    assert os.path.exists("/dev/null")
    assert not os.path.isfile("/dev/null")
