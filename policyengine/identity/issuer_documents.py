"""What issuers answer: JSON of strangers, of which something is wrong for the log, and not for who brought a token."""

from __future__ import annotations

from policyengine.identity.verify import strict_json
from policyengine.runtime.credential_errors import Refusal, Refused

WORDS = {
    Refusal.NOT_A_TOKEN: "it is no JSON object",
    Refusal.DUPLICATE_MEMBER: "a member is in it twice",
    Refusal.CLAIM_TYPE: "a number in it is too long",
    Refusal.ENCODING: "half a character is in it",
    Refusal.TOO_DEEP: "it is nested too deep",
}


class DocumentError(Exception):
    """What is wrong with a document, without anything that is in it."""


def json_object(data: bytes) -> dict[str, object]:
    """Fractions are Decimal. Raises DocumentError: no UTF-8, no JSON object, a member that is there twice, a number
    that is none or too long, half a character, too deep."""
    try:
        return strict_json.json_object(data)
    except Refused as refused:
        raise DocumentError(WORDS[refused.refusal]) from None
