"""Bodies of AuthZEN requests: one evaluation, or several with shared members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request as HttpRequest

from policyengine.runtime import decode
from policyengine.runtime.structure_checks import RequestError, get_object, wrong_type_error
from policyengine.runtime.value_size import is_large, measure_extent
from policyengine.server.authzen.evaluations import MEMBERS, AccessEvaluation
from policyengine.server.content_negotiation import BodyFormat, request_format
from policyengine.server.decide_requests import MAX_BATCH_ITEMS, BatchSemantics, parse_semantics
from policyengine.server.problems import ProblemError


@dataclass(frozen=True, slots=True)
class AuthzenRequest:
    """A parsed body. Its raw `items` are parsed one by one; without items the body is a single question."""

    members: Mapping[str, object]
    items: tuple[object, ...] = ()
    semantics: BatchSemantics = BatchSemantics.EXECUTE_ALL

    def merged(self, item: Mapping[str, object]) -> dict[str, object]:
        """Return the members of an item: a member of the item replaces the whole shared member."""
        return {name: item.get(name, self.members.get(name)) for name in MEMBERS if name in {*item, *self.members}}


MAX_SMALL_EXTENT = 8  # maximum elements of a loop that is always fast


def takes_long(raw: object) -> bool:
    """Return whether reading and deciding may take so long that the event loop should not wait, judged by the size of
    the value.
    """
    return is_large(raw) or measure_extent(raw) > MAX_SMALL_EXTENT


def item_context(asked: AuthzenRequest, item: object) -> Mapping[str, object] | None:
    """Return the context of an item, which may contain credentials; None if it has no valid context."""
    context = asked.merged(item).get("context") if isinstance(item, dict) else None
    return context if isinstance(context, dict) else None


def require_json(http: HttpRequest) -> None:
    """Check that the body is JSON: AuthZEN answers other formats with 400. Raises ProblemError."""
    try:
        form = request_format(http.headers)
    except ProblemError as problem:
        raise ProblemError(400, str(problem), hint=problem.hint) from None
    if form is not BodyFormat.JSON:
        raise ProblemError(400, "AuthZEN requires JSON", hint="send `Content-Type: application/json`")


def parse_evaluation_body(body: bytes) -> AuthzenRequest:
    """Parse a body of `evaluation`. Raises RequestError."""
    return AuthzenRequest(parse_body_object(body))


def parse_evaluations_body(body: bytes) -> AuthzenRequest:
    """Parse a body of `evaluations`. Raises RequestError."""
    return read_evaluations(parse_body_object(body))


def read_evaluations(members: dict[str, object]) -> AuthzenRequest:
    """Read a decoded body of `evaluations`. Raises RequestError."""
    options = get_object(members.get("options"), "options") or {}
    semantics = parse_semantics(options.get("evaluations_semantic"), "options.evaluations_semantic")
    items = parse_evaluation_items(members.get("evaluations"))
    for name in MEMBERS if items else ():
        get_object(members.get(name), name)
    return AuthzenRequest(members, items, semantics)


def parse_body_object(body: bytes) -> dict[str, object]:
    try:
        raw = decode.json_tree(body)
    except decode.DecodeError as error:
        raise RequestError("", str(error)) from None
    if not isinstance(raw, dict):
        raise RequestError("", "the body is not an object", 'send `{"subject": {…}, "action": {…}, "resource": {…}}`')
    return raw


def parse_evaluation_items(raw: object) -> tuple[object, ...]:
    match raw:
        case None:
            return ()
        case list() if len(raw) > MAX_BATCH_ITEMS:
            raise RequestError(
                "evaluations", f"a question may have at most {MAX_BATCH_ITEMS:,} evaluations, got {len(raw):,}"
            )
        case list():
            return tuple(raw)
        case _:
            raise wrong_type_error(raw, "evaluations", "a list")


def read_evaluation(raw: Mapping[str, object], place: str = "", *, consumes: bool = False) -> AccessEvaluation:
    """Parse an evaluation, which spends if `consumes` is true, unless the evaluation specifies otherwise. Raises
    RequestError."""
    try:
        clean = decode.from_python({name: raw[name] for name in MEMBERS if name in raw})
    except decode.DecodeError as error:
        raise RequestError(place.rstrip("."), str(error)) from None
    assert isinstance(clean, dict)
    return AccessEvaluation.read(clean, place, consumes=consumes)
