"""A bundle in place of policies, wherever a command decides by them."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from policyengine.compiler.bundle.file import write_bundle
from policyengine.engine import Engine
from tests.compiler.hostile import bundled, members_of


def write_keys(folder, name):
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pem").write_bytes(pem)
    (folder / f"{name}.pub").write_bytes(public)


@pytest.fixture
def bundles(run, project, tmp_path):
    """`plain.policybundle` and `signed.policybundle`, signed by `ours.pem`; and a key of somebody else."""
    write_keys(tmp_path, "ours")
    write_keys(tmp_path, "theirs")
    run("compile", "project", "-o", "plain.policybundle")
    run("compile", "plain.policybundle", "-o", "signed.policybundle", "--key", "ours.pem")


ASKED = ["--entities", "project/entities.json", "--request", "project/request.json"]


@pytest.mark.parametrize("command", ["decide", "explain"])
def test_a_bundle_gives_the_same_answer_as_its_policies(run, bundles, command):
    by_policies = run(command, "project", *ASKED)
    by_bundle = run(command, "plain.policybundle", *ASKED)
    assert by_policies.code == 0
    assert (by_bundle.code, by_bundle.err) == (0, "")
    assert len(by_bundle.out.splitlines()) == len(by_policies.out.splitlines())


@pytest.mark.parametrize("command", ["decide", "explain"])
def test_a_bundle_signed_by_a_trusted_key_is_accepted(run, bundles, command):
    assert run(command, "signed.policybundle", "--trust", "theirs.pub", "--trust", "ours.pub", *ASKED).code == 0


@pytest.mark.parametrize("name", ["plain", "signed"])
@pytest.mark.parametrize("command", ["decide", "explain"])
def test_a_bundle_without_a_trusted_signature_is_rejected(run, bundles, command, name):
    ended = run(command, f"{name}.policybundle", "--trust", "theirs.pub", *ASKED, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "policy")
    assert ended.json["error"]["diagnostics"][0]["code"] == "E163"


def test_compile_with_a_key_makes_the_same_bundle_as_separate_signing(run, bundles, tmp_path):
    assert run("compile", "project", "-o", "whole.policybundle", "--key", "ours.pem").code == 0
    assert (tmp_path / "whole.policybundle").read_bytes() == (tmp_path / "signed.policybundle").read_bytes()


def test_a_damaged_bundle_is_an_error(run, bundles, tmp_path):
    data = (tmp_path / "plain.policybundle").read_bytes()
    (tmp_path / "plain.policybundle").write_bytes(data[:-9])
    ended = run("decide", "plain.policybundle", *ASKED)
    assert ended.code == 1
    assert ended.err.startswith("plain.policybundle:1:1: E162 this bundle is damaged")


def test_a_malformed_rule_in_a_bundle_is_an_error(run, tmp_path):
    members = members_of(write_bundle(Engine.from_text("anyone { may GET /a }").kernel, "0.1.0"))
    (tmp_path / "wrong.policybundle").write_bytes(bundled({**members, "anyones": [None]}))
    ended = run("compile", "wrong.policybundle", "-o", "again.policybundle")
    assert ended.code == 1
    assert ended.err.startswith("wrong.policybundle:1:1: E165")
    assert "internal" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["project", "plain.policybundle"], "a bundle cannot be combined with other policies"),
        (["project", "--trust", "ours.pub"], "`--trust` needs a bundle"),
    ],
)
def test_incompatible_bundle_arguments_are_rejected(run, bundles, arguments, message):
    ended = run("decide", *arguments, *ASKED)
    assert ended.code == 2
    assert message in ended.err


def test_serve_rejects_a_bundle_without_a_trusted_signature(run, bundles):
    ended = run("serve", "signed.policybundle", "--trust", "theirs.pub", "--port", "0")
    assert ended.code == 1
    assert "E163" in ended.err


@pytest.mark.parametrize("command", ["check", "test"])
def test_commands_that_need_source_policies_reject_a_bundle(run, bundles, command):
    ended = run(command, "plain.policybundle")
    assert ended.code in (1, 4)
    assert "plain.policybundle:1:1: E152 this is a bundle, not a policy" in ended.out + ended.err
    assert "hint: pass the policies that it was compiled from; in Python, `Engine.from_bundle`" in ended.out + ended.err
    assert "in 0 files" not in ended.out


def test_compile_signs_no_bundle_whose_rules_are_not_those_of_its_texts(run, bundles, tmp_path):
    """The key holder confirms what the texts say, so a bundle that says otherwise is refused before it is signed."""
    members = members_of((tmp_path / "plain.policybundle").read_bytes())
    [(name, text), *others] = members["sources"]
    members["sources"] = [[name, text.replace("sharing outside", "sharing inside")], *others]
    assert members["sources"][0][1] != text
    (tmp_path / "other.policybundle").write_bytes(bundled(members))
    refused = run("compile", "other.policybundle", "-o", "signed-other.policybundle", "--key", "ours.pem")
    assert (refused.code, "differ from its policy texts" in refused.err) == (1, True)
    assert not (tmp_path / "signed-other.policybundle").exists()


def test_compile_says_that_it_signed_or_copied_a_bundle(run, bundles):
    signed = run("compile", "plain.policybundle", "-o", "again.policybundle", "--key", "ours.pem")
    assert signed.out.startswith("verified and signed ")
    assert run("compile", "plain.policybundle", "-o", "copy.policybundle").out.startswith("verified and copied ")


def test_verify_says_whether_signatures_were_checked(run, bundles):
    assert "not checked: name a trusted key" in run("compile", "signed.policybundle", "--verify").out
    checked = run("compile", "signed.policybundle", "--verify", "--trust", "ours.pub").out
    assert "not checked" not in checked


def test_a_bundle_with_another_name_is_recognized_and_warned_about(run, bundles):
    made = run("compile", "project", "-o", "out.txt")
    assert (made.code, made.err) == (0, "warning: commands accept a bundle only if its name ends in `.policybundle`\n")
    ended = run("decide", "out.txt", *ASKED)
    assert "E152 this is a bundle, but its name does not end in `.policybundle`" in ended.err
    assert "hint: rename it to `out.policybundle`" in ended.err


def test_commands_take_a_bundle_exactly_if_their_path_says_so(run, bundles):
    """The arguments of `graph`; other tests show the rest."""
    assert "or one bundle" in run("graph", "--help").out
    assert run("graph", "plain.policybundle").out == run("graph", "project").out
