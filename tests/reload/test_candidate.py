"""What may decide next, and why not: checked, held to its own tests, signed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from policyengine.compiler.bundle.file import decode_bundle, write_bundle
from policyengine.compiler.bundle.signature import BundleSigningKey
from policyengine.engine import Engine
from policyengine.entities.sources import EntitySources
from policyengine.reload import Candidate, ReloadRefusedError, ReloadSource, prepare_candidate, prepare_process
from policyengine.reload.prepare_process import prepare_in_subprocess
from tests import forking
from tests.reload.conftest import OPEN, SHUT, TEST


def refused(*paths: Path, **more: object) -> ReloadRefusedError:
    with pytest.raises(ReloadRefusedError) as caught:
        prepare_candidate(ReloadSource(paths, **more))  # type: ignore[arg-type]
    return caught.value


def test_a_valid_candidate_has_the_revision_of_the_loaded_engine(folder: Path) -> None:
    (folder / "shop_test.policy").write_text(TEST)
    found = prepare_candidate(ReloadSource((folder,)))
    assert decode_bundle(found.bundle).kernel.revision == Engine.load(folder).revision
    assert (found.tests, found.directory) == (1, None)


def test_policies_with_errors_are_rejected_with_all_errors(folder: Path) -> None:
    (folder / "shop.policy").write_text(OPEN + "guard g on GET /health { deny when nonsense }\nanyone { may GT /x }\n")
    found = refused(folder)
    assert found.why.endswith(" in the policies")
    assert f"{folder}/shop.policy:4:" in str(found)


@pytest.mark.parametrize("where", ["shop_test.policy", "shop.policy"])
def test_policies_that_fail_their_tests_are_rejected_with_the_failing_test(folder: Path, where: str) -> None:
    (folder / "shop.policy").write_text(SHUT)
    test = 'test "it is open" { GET /health => allow }\n'
    (folder / where).write_text(TEST if where == "shop_test.policy" else SHUT + test)
    found = refused(folder)
    assert found.why == "1 of 1 test request failed"
    assert 'failed test "it is open"' in str(found)
    assert prepare_candidate(ReloadSource((folder,), tested=False)).tests == 0


def test_a_failing_claim_rejects_the_policies(folder: Path) -> None:
    pytest.importorskip("hypothesis")
    (folder / "shop.policy").write_text(
        OPEN + 'test "never" { forall request where request.path == "/health" => not allow }\n'
    )
    assert "failed" in refused(folder).why


def test_a_test_file_with_errors_is_rejected(folder: Path) -> None:
    (folder / "shop_test.policy").write_text(TEST.replace("allow", "maybe"))
    assert refused(folder).why == "1 error in the policies"


@pytest.mark.parametrize("left", ["entity user { }", None])
def test_policies_without_any_grant_are_rejected(folder: Path, left: str | None) -> None:
    (folder / "shop.policy").unlink() if left is None else (folder / "shop.policy").write_text(left)
    assert refused(folder).why == "the policies allow nothing"


@pytest.mark.parametrize("left", ["", " \n\t\n", "# only words", "language 1\npackage shop\n"])
def test_a_file_without_declarations_is_rejected(folder: Path, left: str) -> None:
    (folder / "guards.policy").write_text(left)
    found = refused(folder)
    assert found.why == "1 error in the policies"
    assert "E155 this file declares nothing" in str(found)


def test_an_empty_named_folder_is_rejected(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "guards").mkdir()
    assert "E156 this folder contains no policy" in str(refused(folder, tmp_path / "guards"))


def test_an_unreadable_file_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() == 0:  # whom no mode keeps out
        monkeypatch.setattr(
            Path, "open", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
        )
    else:
        (folder / "shop.policy").chmod(0)
    assert "this file cannot be read: permission denied" in str(refused(folder))


def test_entities_are_read_and_their_errors_are_reported(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "entities.json"
    rows.write_text('{"entities": [{"type": "user", "id": "ann"}]}')
    found = prepare_candidate(ReloadSource((folder,), EntitySources.of(rows))).directory
    assert [str(row.ref) for row in found or ()] == ['user "ann"']
    rows.write_text('{"entities": [{"type": "user"}]}')
    told = refused(folder, entities=EntitySources.of(rows))
    assert told.why == "the entities cannot be used"
    assert "entities[0].id" in str(told)


def test_a_long_list_of_findings_is_shortened(folder: Path) -> None:
    (folder / "shop.policy").write_text(OPEN + "".join(f"anyone {{ may GET /{n} when no{n} }}\n" for n in range(30)))
    assert str(refused(folder)).endswith("… and 10 more")


# ── Bundles ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, Path]:
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization as how
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = Ed25519PrivateKey.generate()
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(made.private_bytes(how.Encoding.PEM, how.PrivateFormat.PKCS8, how.NoEncryption()))
    public.write_bytes(made.public_key().public_bytes(how.Encoding.PEM, how.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_bundle_is_used_unchanged_and_its_signature_is_verified(tmp_path: Path, key: tuple[Path, Path]) -> None:
    kernel, file = Engine.from_text(OPEN).kernel, tmp_path / "shop.policybundle"
    file.write_bytes(write_bundle(kernel, "1", BundleSigningKey.read(key[0])))
    origin = ReloadSource((file,), keys=(key[1],))
    assert prepare_candidate(origin).bundle == file.read_bytes()
    file.write_bytes(write_bundle(kernel, "1"))
    assert prepare_candidate(ReloadSource((file,))).bundle == file.read_bytes()
    assert "1 error" in refused(file, keys=(key[1],)).why
    file.write_bytes(file.read_bytes()[:-40])
    assert "E162 this bundle is damaged" in str(refused(file))


def test_a_missing_key_file_rejects_the_bundle(tmp_path: Path, key: tuple[Path, Path]) -> None:
    file = tmp_path / "shop.policybundle"
    file.write_bytes(write_bundle(Engine.from_text(OPEN).kernel, "1", BundleSigningKey.read(key[0])))
    key[1].unlink()
    assert "cannot be read" in str(refused(file, keys=(key[1],)))


# ── In a process of its own ───────────────────────────────────────────────────────────────────


def test_a_subprocess_prepares_the_same_candidate_and_the_same_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [forking.python(), *prepare_process.python_command(prepare_process.COMMAND)[1:]]
    monkeypatch.setattr(prepare_process, "python_command", lambda code: command)
    origin = ReloadSource((folder,))
    assert prepare_in_subprocess(origin) == prepare_candidate(origin)
    (folder / "shop.policy").write_text("nonsense")
    with pytest.raises(ReloadRefusedError) as caught:
        prepare_in_subprocess(origin)
    assert (caught.value.why, caught.value.findings) == (refused(folder).why, refused(folder).findings)


def test_a_preparation_that_times_out_is_rejected(folder: Path) -> None:
    with pytest.raises(ReloadRefusedError, match=r"took longer than 0\.01 s"):
        prepare_in_subprocess(ReloadSource((folder,)), 0.01)


def test_a_killed_preparation_process_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.reload.prepare_process.COMMAND", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ReloadRefusedError, match="ended with status -9"):
        prepare_in_subprocess(ReloadSource((folder,)))


def test_a_candidate_and_a_reload_error_can_be_pickled(folder: Path) -> None:
    found = prepare_candidate(ReloadSource((folder,)))
    assert isinstance(pickle.loads(pickle.dumps(found)), Candidate)
    sent = pickle.loads(pickle.dumps(ReloadRefusedError("why", ["one"])))
    assert (sent.why, sent.findings) == ("why", ("one",))
