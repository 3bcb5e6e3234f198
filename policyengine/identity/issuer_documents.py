"""What issuers answer: JSON of strangers, of which something is wrong for the log, and not for who brought a token."""

from __future__ import annotations

from policyengine.identity.verify import strict_json
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

PROBLEM_TEXTS = {
    RefusalCode.NOT_A_TOKEN: "it is no JSON object",
    RefusalCode.DUPLICATE_MEMBER: "a member is in it twice",
    RefusalCode.CLAIM_TYPE: "a number in it is too long",
    RefusalCode.ENCODING: "half a character is in it",
    RefusalCode.TOO_DEEP: "it is nested too deep",
}


class DocumentError(Exception):
    """What is wrong with a document, without anything that is in it."""


def parse_document(data: bytes) -> dict[str, object]:
    """Fractions are Decimal. Raises DocumentError: no UTF-8, no JSON object, a member that is there twice, a number
    that is none or too long, half a character, too deep."""
    try:
        return strict_json.parse_strict_object(data)
    except CredentialError as refused:
        raise DocumentError(PROBLEM_TEXTS[refused.refusal]) from None
