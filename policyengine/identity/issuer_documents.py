"""Parses JSON documents from issuers; errors are for the log, not for the presenter of a token."""

from __future__ import annotations

from policyengine.identity.verify import strict_json
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

PROBLEM_TEXTS = {
    RefusalCode.NOT_A_TOKEN: "the document is not a JSON object",
    RefusalCode.DUPLICATE_MEMBER: "the document has a duplicate member",
    RefusalCode.CLAIM_TYPE: "a number in the document is too long",
    RefusalCode.ENCODING: "the document contains an unpaired surrogate",
    RefusalCode.TOO_DEEP: "the document is nested too deeply",
}


class DocumentError(Exception):
    """The error for a malformed document; the message contains nothing from the document."""


def parse_document(data: bytes) -> dict[str, object]:
    """Parse a JSON object; fractions are Decimal. Raises DocumentError if it is not UTF-8, not a JSON object or nested
    too deep, or if it has a duplicate member, a number that is malformed or too long, or an unpaired surrogate."""
    try:
        return strict_json.parse_strict_object(data)
    except CredentialError as refused:
        raise DocumentError(PROBLEM_TEXTS[refused.refusal]) from None
