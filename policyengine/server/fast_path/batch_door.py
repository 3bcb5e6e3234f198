"""`/decide/batch`: a few questions, which together take no longer than an event loop may wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policyengine.engine import Engine
from policyengine.engine.record_group import RecordGroup
from policyengine.http.host_check import AllowedHosts
from policyengine.runtime.decision import Decision
from policyengine.runtime.request import RequestError
from policyengine.server.content_negotiation import BodyFormat, encode_body
from policyengine.server.decide_requests import decide_small_batch, read_batch, read_small_batch
from policyengine.server.fast_path.door import DoorCounts, is_simple_body
from policyengine.server.fast_path.exchange import (
    CODECS,
    FastAnswer,
    FastPathCodec,
    HeaderMap,
    SimpleRequest,
    build_answer,
)
from policyengine.server.telemetry.metered_engine import MeteredEngine
from policyengine.server.telemetry.shared_counters import CountFunction

PACKED_HEAD = encode_body({"decisions": []}, BodyFormat.MSGPACK)[:-1]
FIXED_LIST, LIST_16 = 0x90, b"\xdc"  # the first byte of a MessagePack list of up to 15 items, and of a longer list


@dataclass(frozen=True, slots=True)
class BatchDoor:
    """A door for batches: the event loop decides every item of a batch, or none."""

    counts: DoorCounts
    method: ClassVar[str] = "POST"
    has_body: ClassVar[bool] = True
    has_threads: ClassVar[bool] = False
    holds_records: ClassVar[bool] = False

    def accepts(self, headers: HeaderMap) -> bool:
        codec = CODECS.get(headers.get(b"content-type", b""))
        return codec is not None and codec.accepts(headers) and is_simple_body(headers)

    def admits(self, hosts: AllowedHosts, headers: HeaderMap) -> bool:
        return hosts.at_once(headers)

    def answer(
        self,
        request: SimpleRequest,
        engine: Engine,
        count: CountFunction,
        *,
        at_once: bool,
        records: RecordGroup | None = None,
    ) -> FastAnswer | None:
        codec = CODECS[request.headers[b"content-type"]]
        request.decoded = codec.read(request.body)
        if request.decoded is None:
            return None
        try:
            batch = read_batch(request.decoded)
        except RequestError:
            return None
        metered = MeteredEngine(engine, self.counts.tally, count, self.counts.timed)
        requests = read_small_batch(metered, batch, len(request.body))
        if requests is None:
            return None
        pieces = [
            codec.write(answer) if isinstance(answer, Decision) else encode_body(answer, codec.form)
            for answer in decide_small_batch(metered, batch, requests)
        ]
        return build_answer(join_pieces(pieces, codec), b"", codec.lines)


def join_pieces(pieces: list[bytes], codec: FastPathCodec) -> bytes:
    """Return the answer with these encoded decisions."""
    if codec.form is BodyFormat.JSON:
        return b'{"decisions":[%b]}' % b",".join(pieces)
    many = len(pieces)
    head = bytes([FIXED_LIST + many]) if many < 16 else LIST_16 + many.to_bytes(2, "big")
    return b"".join((PACKED_HEAD, head, *pieces))
