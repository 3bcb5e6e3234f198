"""Reads the members that lines of every kind have: version, time, trace, redacted facts, and values that JSON cannot
represent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address, ip_network
from typing import Any

from policyengine.audit.encoder import LINE_STARTS, LOG_VERSION
from policyengine.audit.redaction import RedactedFact
from policyengine.runtime import decode
from policyengine.runtime.values import Invalid, coerce_time
from policyengine.typesystem import EntityRef

READABLE_VERSIONS = tuple(range(1, LOG_VERSION + 1))


class LogRecordError(Exception):
    """The error for a line that is not a valid record; the message says why."""


def parse_line(line: bytes) -> dict[str, Any]:
    """Parse the JSON of a line and check its version. Raises LogRecordError."""
    try:
        tree = decode.json_tree(line)
    except decode.DecodeError as error:
        raise LogRecordError(str(error)) from None
    if not isinstance(tree, dict) or "v" not in tree:
        raise LogRecordError("it is not a line of a decision log")
    if type(tree["v"]) is not int:
        raise LogRecordError("its version `v` is not a whole number")
    if tree["v"] not in READABLE_VERSIONS:
        known = f"1 to {LOG_VERSION}"
        raise LogRecordError(f"it has version {tree['v']}, but this program supports {known}")
    return tree


def find_last_start(line: bytes) -> int:
    """Return where the last record on a line begins, because an earlier record on the line may have been cut off; -1 if
    no record begins on the line."""
    return max(line.rfind(start) for start in LINE_STARTS)


def parse_record_time(tree: Mapping[str, Any]) -> datetime:
    """Parse the time of a line. Raises LogRecordError, LookupError."""
    found = coerce_time(tree["time"], "time")
    if not isinstance(found, datetime):
        raise LogRecordError("its time is malformed")
    return found


def parse_redacted_facts(tree: Mapping[str, Any]) -> tuple[RedactedFact, ...]:
    return tuple(RedactedFact(one["fact"], one["fingerprint"]) for one in tree.get("redacted", ()))


def parse_trace(tree: Mapping[str, Any]) -> str | None:
    return None if tree.get("trace") is None else str(tree["trace"])


def parse_details(tree: Mapping[str, Any], member: str) -> dict[str, Any]:
    """Return the object under the member that names the kind of a line. Raises LogRecordError, LookupError, TypeError,
    ValueError."""
    found = restore_special_values(tree[member], tree.get("beyond_json", ()))
    if not isinstance(found, dict):
        raise LogRecordError(f"its `{member}` is not an object")
    return found


# ── Values that JSON cannot represent ─────────────────────────────────────────────────────────


def restore_special_values(tree: Any, beyond: Any) -> Any:
    """Restore the values in `beyond` at their places in the tree. Raises LookupError, TypeError, ValueError."""
    for item in beyond:
        *path, last = item["at"]
        place = tree
        for step in path:
            place = place[step]
        place[last] = decode_special_value(item["is"], item["value"])
    return tree


def decode_special_value(kind: str, written: Any) -> object:
    match kind:
        case "number":
            return Decimal(written)
        case "time":
            return datetime.fromisoformat(written)
        case "duration":
            return timedelta(microseconds=written)
        case "ip":
            return ip_address(written)
        case "cidr":
            return ip_network(written)
        case "entity":
            return EntityRef(*written)
        case "invalid":
            return Invalid(str(written))
        case "no_value":  # an invalid value with its digest
            return Invalid(*map(str, written))
        case _:
            raise ValueError(f"`{kind}` is not a kind of value")
