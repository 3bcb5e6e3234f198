"""Checkpoints that are kept elsewhere: a webhook receives them, and a witness in Go cosigns them."""

from __future__ import annotations

import logging
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from policyengine.audit import DecisionLog, DecisionLogError
from policyengine.audit.seal import delivery
from policyengine.audit.seal.delivery import DeliveryError, parse_witnesses, read_cosigned
from policyengine.audit.seal.find_line import LogIndex
from policyengine.audit.seal.keys import load_or_create_key
from policyengine.audit.seal.notes import SignedCheckpoint, Verifier
from policyengine.audit.seal.options import SealOptions, WitnessOptions
from policyengine.audit.seal.proofs import prove_consistency
from tests.audit.seal.logs import NEVER, checkpoint_of, folder, key_of, problems, sealed_log, verified, write_lines

GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "d.jsonl"


class Receiver(BaseHTTPRequestHandler):
    """A webhook that keeps what it receives."""

    received: list[tuple[str, bytes]]
    status = 204

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).received.append((self.headers["Content-Type"], body))
        self.send_response(type(self).status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def webhook():
    kind = type("OneReceiver", (Receiver,), {"received": []})
    server = HTTPServer(("127.0.0.1", 0), kind)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/checkpoints", kind
    server.shutdown()
    server.server_close()


@pytest.fixture
def witness(go_program, path):
    """The options of a running witness of the log."""
    key = load_or_create_key(path.with_name("d.jsonl.key"), path)
    process = subprocess.Popen(
        [go_program("witness"), "w.example", key.name, str(key.verifier)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    vkey, port = process.stdout.readline().split()
    yield WitnessOptions(f"http://127.0.0.1:{port}", vkey)
    process.kill()
    process.communicate()


def write(path: Path, count: int, begin: int = 0, **options) -> None:
    log = DecisionLog(path, seal=SealOptions(interval=NEVER, **options))
    write_lines(log, count, begin=begin)
    log.close()


def test_a_webhook_receives_the_last_checkpoint(path, webhook):
    url, kind = webhook
    write(path, 300, webhooks=(url,))
    content_type, body = kind.received[-1]
    kept = SignedCheckpoint.parse(body)
    assert content_type == "text/plain; charset=utf-8"
    assert (kept.size, kept.log_keys([key_of(path)])) == (300, [key_of(path)])
    path.write_bytes(path.read_bytes()[:-40])
    assert problems(path, kept) != []


def test_a_webhook_that_fails_is_reported_and_the_log_is_sealed(path, webhook, caplog):
    url, kind = webhook
    kind.status = 500
    write(path, 3, webhooks=(url,))
    assert f"a checkpoint was not delivered to `{url}`: the server answers 500" in caplog.text
    assert problems(path) == []


def test_a_log_is_sealed_although_no_thread_for_its_checkpoints_can_start(path, webhook, monkeypatch, caplog):
    def fail(thread: object) -> None:
        raise RuntimeError("can't start new thread")

    log = DecisionLog(path, seal=SealOptions(interval=NEVER, webhooks=(webhook[0],)))
    write_lines(log, 1)
    with monkeypatch.context() as patch:
        patch.setattr(delivery.Thread, "start", fail)
        assert log.seal()
    assert "checkpoints are not delivered: can't start new thread" in caplog.text
    log.close()
    assert len(webhook[1].received) == 1


def test_a_witness_cosigns_checkpoints_as_the_log_grows(path, witness):
    key = Verifier.parse(witness.key)
    for begin in (0, 300, 600):
        write(path, 300, begin=begin, witnesses=(witness,))
        signed = read_cosigned(folder(path))
        assert signed is not None
        assert (signed.size, signed.witnesses([key])) == (begin + 300, [key])
    result = verified(path, keys=[key_of(path), key])
    assert (result.problems, result.witnesses) == ([], (key,))


def test_a_witness_that_knows_a_later_size_is_asked_again_from_there(path, witness):
    write(path, 300, witnesses=(witness,))
    (folder(path) / "witnessed").unlink()
    write(path, 300, begin=300, witnesses=(witness,))
    signed = read_cosigned(folder(path))
    assert signed is not None
    assert signed.size == 600


def test_a_witness_does_not_cosign_a_rewritten_log(path, witness, caplog):
    write(path, 300, witnesses=(witness,))
    shutil.rmtree(folder(path))
    path.write_bytes(path.read_bytes().replace(b"t41", b"t99"))
    write(path, 10, begin=300, witnesses=(witness,))
    assert read_cosigned(folder(path)) is None
    assert "was not delivered" in caplog.text
    assert "the server answers 422" in caplog.text


def test_a_proof_uses_the_cosigned_checkpoint(path, witness):
    write(path, 300, witnesses=(witness,))
    old = checkpoint_of(path)
    write(path, 10, begin=300)
    proof = prove_consistency(folder(path), old)
    assert proof.signed.size == 300
    assert proof.signed.witnesses([Verifier.parse(witness.key)]) != []
    assert LogIndex(path, folder(path)).find("01M8JXK32EZ2ASJW12JMDAV2N5") is None


def test_a_changed_cosigned_checkpoint_is_reported(path, witness):
    write(path, 300, witnesses=(witness,))
    file = folder(path) / "cosigned"
    file.write_text(file.read_text().replace("\n300\n", "\n299\n"))
    assert "the signature of" in problems(path)[0]
    file.write_text("x")
    assert "`d.jsonl.tlog/cosigned` is damaged" in problems(path)[0]


def test_an_answer_of_another_witness_is_refused(path, witness, caplog):
    other = sealed_log(path.with_name("other.jsonl"))
    stranger = Verifier("w.example", 4, key_of(other).public)
    write(path, 3, witnesses=(WitnessOptions(witness.url, str(stranger)),))
    assert "the witness did not sign with the key `w.example`" in caplog.text
    assert read_cosigned(folder(path)) is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"webhooks": ("http://example.com/x",)}, "must begin with `https://`"),
        ({"webhooks": ("https://user@example.com/x",)}, "neither a user"),
        ({"witnesses": (WitnessOptions("ftp://x", GO_VKEY),)}, "must begin with `https://`"),
        ({"witnesses": (WitnessOptions("https://w.example", "x"),)}, "it is not a public key"),
        ({"witnesses": (WitnessOptions("https://w.example", GO_VKEY),)}, "is not a key for cosignatures"),
    ],
)
def test_a_receiver_that_cannot_be_used_is_refused_at_startup(path, options, why):
    with pytest.raises(DecisionLogError, match=why):
        DecisionLog(path, seal=SealOptions(**options))


def test_a_witness_is_written_as_url_and_key():
    with pytest.raises(DeliveryError, match="a URL and a public key are expected"):
        parse_witnesses(["https://w.example"])


def test_failures_of_a_receiver_do_not_flood_the_server_log(path, caplog):
    caplog.set_level(logging.ERROR)
    log = DecisionLog(path, seal=SealOptions(interval=NEVER, webhooks=("http://127.0.0.1:9/x",)))
    for begin in range(5):
        write_lines(log, 1, begin=begin)
        log.seal()
        assert log.sealer is not None
        assert log.sealer.delivery is not None
        log.sealer.delivery.deliver()
    log.close()
    assert sum("was not delivered" in record.getMessage() for record in caplog.records) == 1
