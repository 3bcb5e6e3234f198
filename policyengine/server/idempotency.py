"""`Idempotency-Key`: binds keys to the caller and the body, and writes the answers for keys that cannot be used."""

from __future__ import annotations

import logging
import re
from hashlib import blake2b
from threading import Event

from starlette.datastructures import Headers

from policyengine.runtime.idempotency import IdempotencyKey, IdempotencyKeyError, KeyReuseError
from policyengine.server.problems import ProblemCode, ProblemError

HEADER = "idempotency-key"
REPLAYED = ("idempotency-replayed", "true")
KEY = re.compile(r"[\x21-\x7e]{1,128}")
RETRY_AFTER_SECONDS = "1"  # seconds to wait before a retry; a decision takes less
KEY_HINT = "use a separate key for each question, of 1 to 128 visible ASCII characters"
_LOG = logging.getLogger("policyengine")
_warned = Event()


def read_key_header(headers: Headers, gateway: str | None, form: str, body: bytes) -> IdempotencyKey | None:
    """Return the key in the header, or None if there is no header. Without a known caller the header is ignored,
    because keys are separate for each caller.

    Raises ProblemError.
    """
    given = headers.getlist(HEADER)
    if not given:
        return None
    if gateway is None:
        warn_ignored_idempotency_key()
        return None
    if len(given) > 1:
        raise ProblemError(400, "there are several `Idempotency-Key` headers", hint=KEY_HINT)
    return build_key(given[0], gateway, form.encode(), body)


def build_key(key: object, gateway: str, *sent: bytes) -> IdempotencyKey:
    """Build a key for this caller and body. Raises ProblemError for a malformed key."""
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise ProblemError(400, "the idempotency key is malformed", hint=KEY_HINT)
    return IdempotencyKey(gateway, key, blake2b(b"\0".join(sent), digest_size=16).hexdigest())


def warn_ignored_idempotency_key() -> None:
    if not _warned.is_set():
        _warned.set()
        _LOG.warning("an `Idempotency-Key` over HTTP was ignored: without `--token-file` its caller is unknown")


def key_problem(problem: IdempotencyKeyError) -> ProblemError:
    if isinstance(problem, KeyReuseError):
        return ProblemError(
            422, str(problem), code=ProblemCode.KEY_USED, hint="use a new key: each key is for one question"
        )
    hint = "retry with the same key"
    return ProblemError(
        409, str(problem), code=ProblemCode.KEY_UNDER_WAY, hint=hint, headers={"Retry-After": RETRY_AFTER_SECONDS}
    )
