"""No mutation of what proves something proves anything: proofs, certificates, signatures of messages."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import http_sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyengine.runtime.credentials import Credentials
from tests.identity.bound_world import COMPONENTS, Message, World, der, jkt, proof, workload, x5t

CHARACTERS = st.sampled_from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=.,;:"()@ {}%')
# The files of a world are read, and nothing is written to them.
several = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """One character is another, is gone or is there twice, or two ends are exchanged."""
    at = draw(st.integers(1, len(text) - 1))
    kinds = (
        text[:at] + draw(CHARACTERS) + text[at + 1 :],
        text[:at] + text[at + 1 :],
        text[:at] + text[at] + text[at:],
        text[at:] + text[:at],
    )
    return draw(st.sampled_from(kinds))


@several
@given(st.data())
def test_a_mutated_dpop_proof_is_rejected(bound_files: Path, data: st.DataObject) -> None:
    world = World(bound_files)
    token = world.issued.token({"jkt": jkt()})
    held = proof(token)
    other = data.draw(mutated(held))
    code = world.refusal(Credentials(authorization=f"DPoP {token}", dpop=other))
    assert (code == "proved") is (other.strip() == held)


@several
@given(st.data())
def test_a_mutated_certificate_is_rejected(bound_files: Path, data: st.DataObject) -> None:
    """A bit of it, so that it may still be one."""
    world, raw = World(bound_files), bytearray(der(workload()))
    at = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[at // 8] ^= 1 << at % 8
    sent = f":{b64encode(raw).decode()}:"
    token = world.issued.token({"x5t#S256": x5t(workload())})
    assert world.refusal(Credentials(client_certificate=sent)) != "proved"
    assert world.refusal(Credentials(authorization=f"Bearer {token}", client_certificate=sent)) != "proved"


SIGNED = Message(method="POST", content=b"{}", components=COMPONENTS + ' "content-digest"').credentials()
PARTS = ("signature", "signature_input", "signature_agent", "content_digest", "url", "method")


@several
@given(st.data())
def test_a_mutated_message_signature_is_rejected(bound_files: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(PARTS))
    held = getattr(SIGNED, name)
    other = data.draw(mutated(held))
    code = World(bound_files).refusal(replace(SIGNED, **{name: other}))
    assert (code == "proved") is (meant(name, other) == meant(name, held)), (name, other)


def meant(name: str, text: str) -> object:
    """Space within a structured field, and around any, means nothing."""
    if not name.startswith("signature"):
        return text.strip(" ")
    try:
        return http_sf.ser(http_sf.parse(text.encode(), tltype="item" if name == "signature_agent" else "dictionary"))
    except ValueError:
        return None
