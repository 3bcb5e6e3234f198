"""Signed notes and checkpoints: their text, and what is refused."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policyengine.audit.seal.notes import (
    COSIGNATURE,
    Checkpoint,
    Note,
    NoteError,
    Signature,
    SignedCheckpoint,
    Signer,
    Verifier,
    key_id,
)

# The example of `golang.org/x/mod/sumdb/note`.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_NOTE = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
"""
SIGNER = Signer.generate("log.example/1")


def checkpoint(size: str = "3", root: str = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=") -> str:
    return f"log.example/1\n{size}\n{root}\n"


def test_the_note_of_go_is_read_and_verified():
    note, key = Note.parse(GO_NOTE), Verifier.parse(GO_VKEY)
    assert note.verified_by([key]) == [key]
    assert str(note) == GO_NOTE
    assert str(key) == GO_VKEY


def test_the_private_key_of_go_signs_the_same_note():
    signer = Signer.parse(GO_SKEY)
    assert signer.encode() == GO_SKEY
    assert signer.sign(Note.parse(GO_NOTE).text) == GO_NOTE


def test_a_changed_text_has_a_wrong_signature():
    with pytest.raises(NoteError, match="the signature of `PeterNeumann` is wrong"):
        Note.parse(GO_NOTE.replace("then", "than")).verified_by([Verifier.parse(GO_VKEY)])


def test_signatures_of_unknown_keys_are_ignored():
    assert Note.parse(SIGNER.sign("a\n")).verified_by([Verifier.parse(GO_VKEY)]) == []


def test_a_cosignature_covers_its_time():
    witness = Ed25519PrivateKey.generate()
    key = Verifier("w.example", COSIGNATURE, witness.public_key().public_bytes_raw())
    text = checkpoint()
    raw = (7).to_bytes(8) + witness.sign(b"cosignature/v1\ntime 7\n" + text.encode())
    note = SIGNER.sign(text) + str(Signature("w.example", key.id, raw))
    signed = SignedCheckpoint.parse(note)
    assert signed.log_keys([SIGNER.verifier, key]) == [SIGNER.verifier]
    assert signed.witnesses([key]) == [key]
    moved = SIGNER.sign(text) + str(Signature("w.example", key.id, (8).to_bytes(8) + raw[8:]))
    with pytest.raises(NoteError, match=r"`w\.example` is wrong"):
        SignedCheckpoint.parse(moved).witnesses([key])


def test_a_witness_alone_does_not_sign_for_the_log():
    witness = Ed25519PrivateKey.generate()
    key = Verifier("w.example", COSIGNATURE, witness.public_key().public_bytes_raw())
    text = checkpoint()
    raw = (7).to_bytes(8) + witness.sign(b"cosignature/v1\ntime 7\n" + text.encode())
    signed = SignedCheckpoint.parse(f"{text}\n{Signature('w.example', key.id, raw)}")
    with pytest.raises(NoteError, match="no trusted key signed the checkpoint"):
        signed.log_keys([key])


@pytest.mark.parametrize(
    ("note", "why"),
    [
        ("text\n", "it is not a signed note"),
        ("text\n\nno signature\n", "is not a signature line"),
        ("text\n\n— name !!!!\n", "is not base64"),
        ("text\n\n— name AAAA\n", "is too short"),
        ("text\n\n— na+me AAAAAAAAAAA=\n", "is not a valid key name"),
        ("te\rxt\n\n— name AAAAAAAAAAA=\n", "control characters"),
        (b"te\xffxt\n\n", "not valid UTF-8"),
        ("text\n\n" + "— name AAAAAAAAAAA=\n" * 101, "more than 100 signatures"),
        ("x" * 1_000_001, "too long"),
    ],
)
def test_malformed_notes_are_refused(note, why):
    with pytest.raises(NoteError, match=why):
        Note.parse(note)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("log\n3\n", "it is not a checkpoint"),
        (checkpoint(size="03"), "is not a whole number"),
        (checkpoint(size="-1"), "is not a whole number"),
        (checkpoint(size="9" * 20), "is not a whole number"),
        (checkpoint(root="AAAA"), "not 32 bytes long"),
        (checkpoint(root="???"), "is not base64"),
    ],
)
def test_malformed_checkpoints_are_refused(text, why):
    with pytest.raises(NoteError, match=why):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("nothing", "it is not a public key"),
        (GO_VKEY.replace("c74f20a3", "c74f20a4"), "its ID or length does not match"),
        ("name+" + key_id("name", 1, b"x").hex() + "+AXg=", "is damaged"),
        ("name+00000000+AHg=", "is not an Ed25519 key"),
        ("name+00000000+", "is empty"),
    ],
)
def test_malformed_public_keys_are_refused(key, why):
    with pytest.raises(NoteError, match=why):
        Verifier.parse(key)


@pytest.mark.parametrize("key", ["", GO_VKEY, GO_SKEY.replace("c74f20a3", "c74f20a4"), GO_SKEY[:-4], GO_SKEY[:40]])
def test_malformed_private_keys_are_refused(key):
    with pytest.raises(NoteError):
        Signer.parse(key)


def test_extension_lines_are_kept():
    text = checkpoint() + "more\n"
    assert Checkpoint.parse(text).extension == ("more",)
    assert str(Checkpoint.parse(text)) == text
