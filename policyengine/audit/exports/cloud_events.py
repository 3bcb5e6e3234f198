"""Encodes records as CloudEvents 1.0, in the structured JSON format."""

from __future__ import annotations

from hashlib import sha256
from typing import Any
from urllib.parse import quote

import msgspec

from policyengine.audit.record_summary import RecordSummary

SPEC_VERSION = "1.0"
TYPE_PREFIX = "policyengine."
SOURCE = "urn:policyengine"


def encode_cloud_event(line: bytes, row: RecordSummary) -> dict[str, Any]:
    """Return the event of a record; the data of the event is the record as it is in the log. The same line always has
    the same `id`."""
    source = f"{SOURCE}:{quote(row.package, safe='')}" if row.package else SOURCE
    return {
        "specversion": SPEC_VERSION,
        "id": f"{row.id}:{row.kind}" if row.id else sha256(line).hexdigest()[:32],
        "source": source,
        "type": TYPE_PREFIX + row.kind,
        **({"subject": row.target or row.endpoint} if row.endpoint else {}),
        **({"time": row.time} if row.nanoseconds else {}),
        **({"traceparent": row.trace} if row.trace_ids else {}),
        **({"outcome": row.outcome} if row.outcome else {}),
        "datacontenttype": "application/json",
        "data": msgspec.Raw(line),
    }
