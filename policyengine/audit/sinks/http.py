"""Sends batches over HTTP, signed as in the Standard Webhooks specification, and distinguishes failures of the receiver
from lines that the receiver refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from time import time

from policyengine.audit.exports.cloud_events import encode_cloud_event
from policyengine.audit.exports.json_events import encode_json
from policyengine.audit.exports.ocsf import encode_ocsf
from policyengine.audit.sinks.secret_values import SecretValueError
from policyengine.audit.sinks.targets import BatchFormat, RecordFormat, SinkTarget
from policyengine.audit.sinks.transport import LinesRefusedError, SinkError, SinkLine
from policyengine.http.fetch import FetchError
from policyengine.http.poster import HttpPoster, PostResponse
from policyengine.http.webhook_signature import signature_headers, signature_key

REFUSED_STATUSES = frozenset({400, 413, 422})  # the content is refused; other errors are failures of the receiver
CONTENT_TYPES = {BatchFormat.LINES: "application/x-ndjson", BatchFormat.ARRAY: "application/json"}
CLOUDEVENTS_BATCH = (BatchFormat.ARRAY, RecordFormat.CLOUDEVENTS)
CLOUDEVENTS_TYPE = "application/cloudevents-batch+json"


class HttpTransport:
    """Posts each batch to one URL. `now` is seconds since 1970."""

    def __init__(self, target: SinkTarget, now: Callable[[], float] = time) -> None:
        """Parse the URL and load the certificates. Raises FetchError, CertificatesError."""
        batch = (target.format, target.records)
        self.content_type = CONTENT_TYPES[target.format] if batch != CLOUDEVENTS_BATCH else CLOUDEVENTS_TYPE
        self._target, self._now = target, now
        self.poster = HttpPoster(target.url, ca=target.ca, plain_http=target.plain_http, timeout=target.timeout)

    def send(self, lines: Sequence[SinkLine]) -> int:
        """Post the lines as one batch. Raises SinkError, LinesRefusedError."""
        content = self.encode(lines)
        try:
            headers = {"Content-Type": self.content_type}
            headers |= {name: value.read() for name, value in self._target.headers.items()}
            response = self.poster.post(content, {**headers, **self._sign(content)})
        except (FetchError, SecretValueError) as error:
            raise SinkError(str(error)) from None
        check_status(response)
        return self.count_rejected(response, len(lines))

    def encode(self, lines: Sequence[SinkLine]) -> bytes:
        """Return the body of a batch."""
        records = [encode_record(line, self._target.records) for line in lines]
        if self._target.format is BatchFormat.ARRAY:
            return b"[" + b",".join(records) + b"]"
        return b"".join(record + b"\n" for record in records)

    def count_rejected(self, response: PostResponse, lines: int) -> int:
        """Return how many lines of an accepted batch the receiver dropped: none, unless its protocol reports them."""
        return 0

    def close(self) -> None:
        self.poster.close()

    def _sign(self, content: bytes) -> Mapping[str, str]:
        """Return the headers with the signature. A batch that is sent again has the same ID. Raises
        SecretValueError."""
        if self._target.hmac is None:
            return {}
        secret, id = self._target.hmac.read(), f"msg_{sha256(content).hexdigest()[:32]}"
        try:
            key = signature_key(secret)
        except ValueError as error:
            raise SecretValueError(str(error)) from None
        return signature_headers([key], id, int(self._now()), content)


def encode_record(line: SinkLine, format: RecordFormat) -> bytes:
    """Return the record of a line in this format."""
    match format:
        case RecordFormat.LOG:
            return line.raw
        case RecordFormat.OCSF:
            return encode_json(encode_ocsf(line.summary))
        case RecordFormat.CLOUDEVENTS:
            return encode_json(encode_cloud_event(line.raw, line.summary))


def check_status(response: PostResponse) -> None:
    """Check the status of a response. Raises LinesRefusedError if the receiver refuses the content, and SinkError if
    the receiver fails."""
    status = response.status
    if 200 <= status < 300:
        return
    if status in REFUSED_STATUSES:
        raise LinesRefusedError(f"the receiver answers {status}")
    leads = ", and redirects are not followed" if 300 <= status < 400 else ""
    raise SinkError(f"the receiver answers {status}{leads}", response.retry_after)
