"""The digests of lines, however the lines fall into what is read at once."""

from hashlib import sha256
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.audit.seal import line_digests
from policyengine.audit.seal.line_digests import SEAL_MARK, read_batches

PIECES = st.lists(st.sampled_from([b"a", b"bb" * 9, b"\n", b"\n\n", b"c" * 50, SEAL_MARK]), max_size=30)


@given(pieces=PIECES, size=st.integers(1, 40), most=st.integers(1, 60))
def test_every_line_has_its_digest_and_its_number(pieces: list[bytes], size: int, most: int) -> None:
    text = b"".join(pieces)
    *lines, rest = text.split(b"\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_digests, "READ_BYTES", size)
        patch.setattr(line_digests, "MAX_KEPT_BYTES", most)
        batches = list(read_batches(BytesIO(text).read))
    whole = [
        (batch.number + at, digest) for batch in batches if not batch.torn for at, digest in enumerate(batch.digests)
    ]
    assert whole == [(number, sha256(line).digest()) for number, line in enumerate(lines, 1)]
    torn = [(batch.number, *batch.digests) for batch in batches if batch.torn]
    assert torn == ([(len(lines) + 1, sha256(rest).digest())] if rest else [])
    about_seal = {batch.number + at: line for batch in batches for at, line in batch.about_seal}
    marked = {number: line for number, line in enumerate(lines, 1) if SEAL_MARK in line}
    assert about_seal.items() <= marked.items()
    assert {number for number, line in marked.items() if len(line) <= most} <= about_seal.keys()
