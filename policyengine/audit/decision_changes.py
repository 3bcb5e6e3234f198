"""Compares two decisions about one request, in their JSON form, and finds the differences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policyengine.audit.encoder import WITHHELD_MESSAGE
from policyengine.runtime.decision import Outcome

OUTCOME = "outcome"
# The lists of a decision, each with the members by which its items are compared. Other members depend on the text of
# the policies or on the time, such as the places of rules and the digests to which approvals are bound.
LISTS: dict[str, tuple[str, ...]] = {
    "reasons": ("outcome", "gate", "rule", "code"),
    "remedies": ("kind", "rule", "by", "scopes", "need"),
    "obligations": ("kind", "rule", "arguments"),
    "unknown": ("fact", "why"),
}


@dataclass(frozen=True, slots=True)
class DecisionChange:
    """A difference in one member of two decisions: `then` and `now` are the values of the member or, for a list, of one
    item; None if that decision lacks the item."""

    member: str
    then: Any
    now: Any

    def to_dict(self) -> dict[str, Any]:
        return {"member": self.member, "then": self.then, "now": self.now}


def compare_decisions(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[DecisionChange, ...]:
    """Return the differences between the recorded decision (`then`) and another decision (`now`)."""
    return tuple(_changes(then, now))


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[DecisionChange]:
    if then[OUTCOME] != now[OUTCOME]:
        yield DecisionChange(OUTCOME, then[OUTCOME], now[OUTCOME])
    for member, names in LISTS.items():
        before = {_key(item, names): item for item in then.get(member, ())}
        after = {_key(item, names): item for item in now.get(member, ())}
        for key, item in before.items():
            if key not in after:
                yield DecisionChange(member, item, None)
            elif _message_changed(item, after[key]):
                yield DecisionChange(member, item, after[key])
        yield from (DecisionChange(member, None, item) for key, item in after.items() if key not in before)


def _key(item: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return json.dumps([item.get(name) for name in names], default=str)


def _message_changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether the messages differ. Messages of limits are ignored, because they contain times."""
    messages = then.get("message"), now.get("message")
    return messages[0] != messages[1] and WITHHELD_MESSAGE not in messages and then.get(OUTCOME) != Outcome.THROTTLE


def describe_item(member: str, item: Mapping[str, Any]) -> str:
    """Return an item of a list of a decision in words."""
    rule = f' "{item["rule"]}"' if item.get("rule") else ""
    match member:
        case "reasons":
            at = f"  ({item['at']})" if item.get("at") else ""
            return f"{item['outcome']} by {item['gate']}{rule}: {item['message']}{at}"
        case "remedies":
            details = (item["kind"], item.get("by"), *(item.get("scopes") or ()), item.get("need"))
            return f"remedy{f' of{rule}' if rule else ''}: {' '.join(filter(None, details))}"
        case "obligations":
            return f"obligation of{rule}: {' '.join((item['kind'], *item.get('arguments', ())))}"
        case _:
            return f"unknown: {item.get('fact')}: {item.get('why')}"
