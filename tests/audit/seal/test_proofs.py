"""Proofs of decisions and of earlier states, found quickly and checked without the log."""

import json
from pathlib import Path

import pytest

from policyengine import Engine
from policyengine.audit import Rotation
from policyengine.audit.seal import find_line, sealer
from policyengine.audit.seal.find_line import LogIndex
from policyengine.audit.seal.notes import encode_base64
from policyengine.audit.seal.proofs import ConsistencyProof, InclusionProof, ProofError, prove_consistency, prove_line
from tests.audit.seal.logs import checkpoint_of, folder, key_of, open_sealed, sealed_log, write_lines

POLICY = "anyone { may GET /v1/** }"


@pytest.fixture(scope="module")
def decided(tmp_path_factory) -> tuple[Path, list[str]]:
    """A log of 900 decisions in several files, with their IDs."""
    path = tmp_path_factory.mktemp("decided") / "decisions.jsonl"
    patch = pytest.MonkeyPatch()
    patch.setattr(sealer.Sealer.seal, "__defaults__", (0.0, None))
    log = open_sealed(path, Rotation(size=100_000))
    engine = Engine.from_text(POLICY, log=log)
    ids = []
    for number in range(900):
        question = {"agent": {"id": "bot", "issuer": "acme"}, "request": {"method": "GET", "path": f"/v1/{number}"}}
        ids.append(engine.decide(question).id)
        if number % 100 == 0:
            log.reopen()
    log.close()
    patch.undo()
    return path, ids


@pytest.mark.parametrize("number", [0, 1, 255, 256, 257, 511, 700, 898, 899])
def test_a_decision_is_found_and_proved(decided, number):
    path, ids = decided
    found = LogIndex(path, folder(path)).find(ids[number])
    assert found is not None
    assert json.loads(found.line)["decision"]["id"] == ids[number]
    proof = prove_line(folder(path), found.line, found.index)
    proof.check()
    assert InclusionProof.parse(str(proof)) == proof
    assert proof.signed.log_keys([key_of(path)]) == [key_of(path)]


def test_a_decision_is_found_without_reading_the_log(decided, monkeypatch):
    path, ids = decided
    monkeypatch.setattr(LogIndex, "_scan", lambda self, wanted: iter(()))
    assert all(LogIndex(path, folder(path)).find(each) is not None for each in ids[::37])


def test_a_decision_is_found_although_lines_are_not_in_the_order_of_time(decided, monkeypatch):
    path, ids = decided
    monkeypatch.setattr(find_line, "ulid_time", lambda ulid: b"1970")
    found = LogIndex(path, folder(path)).find(ids[444])
    assert found is not None
    prove_line(folder(path), found.line, found.index)


def test_an_unknown_decision_is_not_found(decided):
    path, _ = decided
    index = LogIndex(path, folder(path))
    assert index.find("01M8JXK32EZ2ASJW12JMDAV2N5") is None
    assert index.find('x"y') is None
    assert index.find("7" + "Z" * 25) is None  # of the year 10889


def test_a_request_that_contains_the_id_of_a_decision_is_not_taken_for_it(tmp_path):
    path = tmp_path / "d.jsonl"
    log = open_sealed(path)
    engine = Engine.from_text(POLICY, log=log)
    question = {"agent": {"id": "bot", "issuer": "acme"}, "request": {"method": "GET", "path": "/v1/a"}}
    first = engine.decide(question)
    engine.decide({**question, "body": {"decision": {"id": first.id}, "id": first.id}})
    log.close()
    found = LogIndex(path, folder(path)).find(first.id)
    assert found is not None
    assert json.loads(found.line)["decision"]["id"] == first.id


def test_a_line_that_contains_an_id_many_times_is_parsed_once(tmp_path, monkeypatch):
    path, parsed = tmp_path / "d.jsonl", []
    log = open_sealed(path)
    engine = Engine.from_text(POLICY, log=log)
    question = {"agent": {"id": "bot", "issuer": "acme"}, "request": {"method": "GET", "path": "/v1/a"}}
    wanted = "01" + "0" * 24
    engine.decide({**question, "body": {"x": [{"id": wanted}] * 500}})
    log.close()
    real = find_line.decision_id
    monkeypatch.setattr(find_line, "decision_id", lambda line: parsed.append(line) or real(line))
    assert LogIndex(path, folder(path)).find(wanted) is None
    assert len(parsed) <= 2  # near its time, and in the whole log


def test_a_line_that_is_not_sealed_yet_is_not_proved(tmp_path):
    path = tmp_path / "d.jsonl"
    log = open_sealed(path)
    engine = Engine.from_text(POLICY, log=log)
    question = {"agent": {"id": "bot", "issuer": "acme"}, "request": {"method": "GET", "path": "/v1/a"}}
    engine.decide(question)
    log.seal()
    last = engine.decide(question).id
    found = LogIndex(path, folder(path)).find(last)
    assert found is not None
    with pytest.raises(ProofError, match="is not sealed yet"):
        prove_line(folder(path), found.line, found.index)
    log.close()


def test_a_changed_line_is_not_proved(decided):
    path, ids = decided
    found = LogIndex(path, folder(path)).find(ids[5])
    assert found is not None
    with pytest.raises(ProofError, match="do not lead from the line"):
        prove_line(folder(path), found.line.replace(b"allow", b"denyy"), found.index)


def changed_proofs(decided) -> dict[str, str]:
    path, ids = decided
    found = LogIndex(path, folder(path)).find(ids[300])
    assert found is not None
    proof = prove_line(folder(path), found.line, found.index)
    text = str(proof)
    line = encode_base64(found.line)
    first = encode_base64(proof.path[0])
    return {
        "line": text.replace(line, encode_base64(found.line.replace(b"allow", b"denyy"))),
        "index": text.replace(f"index {found.index}\n", f"index {(found.index or 0) + 1}\n"),
        "hash": text.replace(first, encode_base64(bytes(32))),
        "hash less": text.replace(f"{first}\n", ""),
        "hash more": text.replace(f"{first}\n", f"{first}\n{first}\n"),
        "root": text.replace(encode_base64(proof.signed.root), encode_base64(bytes(32))),
        "size": text.replace(f"\n{proof.signed.size}\n", f"\n{proof.signed.size + 1}\n"),
    }


@pytest.mark.parametrize("what", ["line", "index", "hash", "hash less", "hash more", "root", "size"])
def test_a_changed_proof_does_not_hold(decided, what):
    path, _ = decided
    proof = InclusionProof.parse(changed_proofs(decided)[what])
    try:
        proof.check()
    except ProofError:
        return
    with pytest.raises(Exception, match="the signature of"):
        proof.signed.log_keys([key_of(path)])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no checkpoint after an empty line"),
        ("c2sp.org/tlog-proof@v1\nindex 1\n\n", "it is not a signed note"),
        ("c2sp.org/tlog-proof@v1\nindex 1\n\nCHECKPOINT", "it does not begin with|does not contain the line"),
        ("c2sp.org/tlog-proof@v1\nindex 1\nx\n\nCHECKPOINT", "does not contain the line that it proves"),
        ("c2sp.org/tlog-proof@v1\nextra AA==\nindex 01\n\nCHECKPOINT", "third line is not `index <number>`"),
        ("c2sp.org/tlog-proof@v1\nextra AA==\nindex 1\nAA==\n\nCHECKPOINT", "not 32 bytes long"),
        ("c2sp.org/tlog-proof@v1\nextra !\nindex 1\n\nCHECKPOINT", "is not base64"),
    ],
)
def test_malformed_proofs_are_refused(decided, text, why):
    path, _ = decided
    with pytest.raises(ProofError, match=why):
        InclusionProof.parse(text.replace("CHECKPOINT", str(checkpoint_of(path).note)))


def test_a_log_proves_that_it_begins_with_an_earlier_state(tmp_path):
    path = sealed_log(tmp_path / "d.jsonl", 300)
    old = checkpoint_of(path)
    log = open_sealed(path)
    write_lines(log, 500, begin=300)
    log.close()
    proof = prove_consistency(folder(path), old)
    assert ConsistencyProof.parse(str(proof)) == proof
    assert str(proof).startswith("old 300\n")
    proof.check(old)
    other = checkpoint_of(sealed_log(tmp_path / "other.jsonl", 300))
    with pytest.raises(ProofError, match="belongs to another log"):
        proof.check(other)


def test_a_log_that_was_rewritten_proves_no_earlier_state(tmp_path):
    import shutil

    path = sealed_log(tmp_path / "d.jsonl", 300)
    old = checkpoint_of(path)
    shutil.rmtree(folder(path))
    path.write_bytes(path.read_bytes().replace(b"t41", b"t99"))
    log = open_sealed(path)
    write_lines(log, 5)
    log.close()
    origin = checkpoint_of(path).checkpoint.origin
    assert origin == old.checkpoint.origin
    with pytest.raises(ProofError, match="the log was rewritten"):
        prove_consistency(folder(path), old)
