"""Handlers of real applications and the policy in front of them read the same of a body, or nothing passes."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import Body, Depends, FastAPI, Form
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient

from policyengine.engine import Engine
from policyengine.integrations.asgi import PolicyMiddleware
from policyengine.integrations.fastapi import Policies, PolicyDeniedError, problem_details

POLICY = """
language 1
package pay
facts on /** { body.to: string   body.amount: number? }
issuer acme { url "https://login.acme.example"   scopes none }
user any { may POST /** }
guard "to alice" on /** { require body.to == "alice" }
guard "small" on /** { deny when (body.amount else 0) > 10 }
"""
SOMEBODY = {"user": {"id": "somebody"}, "credential": {"issuer": "acme"}}
ENGINE = Engine.from_text(POLICY)
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
UTF_7 = "charset=utf-7`: only JSON and forms in UTF-8 are read"
BOTH = b'{"x":"&to=alice&y=","to":"mallory"}'


async def by_json(request: Request) -> Response:
    return PlainTextResponse(str((await request.json())["to"]))


async def by_form(request: Request) -> Response:
    async with request.form() as form:
        return PlainTextResponse(str(form["to"]))


def of_fields(to: str = Form()) -> Response:
    return PlainTextResponse(to)


def of_model(order: dict[str, Any] = Body()) -> Response:  # noqa: B008
    return PlainTextResponse(str(order["to"]))


def within_middleware() -> Any:
    app = FastAPI()
    for path, handler in (("/json", by_json), ("/form", by_form), ("/fields", of_fields), ("/model", of_model)):
        app.add_api_route(path, handler, methods=["POST"])
    return PolicyMiddleware(app, ENGINE, identify=lambda scope: SOMEBODY)


def with_dependency() -> FastAPI:
    app = FastAPI(dependencies=[Depends(Policies(ENGINE, identify=lambda request: SOMEBODY)())])
    app.add_exception_handler(PolicyDeniedError, problem_details)
    for path, handler in (("/json", by_json), ("/form", by_form), ("/fields", of_fields), ("/model", of_model)):
        app.add_api_route(path, handler, methods=["POST"])
    return app


@pytest.fixture(scope="module", params=[within_middleware, with_dependency], ids=["middleware", "dependency"])
def client(request: pytest.FixtureRequest) -> TestClient:
    return TestClient(request.param(), raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("path", "type_", "content"), [("/json", JSON, b'{"to":"alice"}'), ("/form", FORM, b"to=alice")]
)
def test_a_body_both_sides_read_equally_is_decided(client: TestClient, path: str, type_: str, content: bytes) -> None:
    answer = client.post(path, content=content, headers={"content-type": type_})
    assert (answer.status_code, answer.text) == (200, "alice")
    refused = client.post(path, content=content.replace(b"alice", b"mallory"), headers={"content-type": type_})
    assert refused.status_code == 403


@pytest.mark.parametrize("path", ["/json", "/form", "/model"])
@pytest.mark.parametrize(
    ("type_", "content", "why"),
    [
        (FORM, BOTH, "the body was sent as a form, but could be read as JSON"),
        (FORM, b" " + BOTH, "the body was sent as a form, but could be read as JSON"),
        (FORM, b"to=alice&to=mallory", "given twice"),
        (FORM, b"to=alice;to=mallory", "a field that contains `;`"),
        (f"{JSON}; charset=utf-7", b'{"to":"alice","+AGEAbQBvAHUAbgB0-":900}', UTF_7),
        (f"{FORM}; charset=utf-7", b"to=alice&+AGEAbQBvAHUAbgB0-=900", UTF_7),
        (JSON, b'{"to":"alice","to":"mallory"}', "a duplicate key"),
        (JSON, b'{"to":"alice","x":"&to=mallory&"}',
         "can be read as a form field with this name (write `&` as `\\u0026`)"),
    ],
)  # fmt: skip
def test_a_body_a_handler_could_read_differently_is_denied(
    client: TestClient, path: str, type_: str, content: bytes, why: str
) -> None:
    answer = client.post(path, content=content, headers={"content-type": type_})
    assert answer.status_code == 403
    assert why in answer.json()["detail"]


def test_a_form_that_fastapi_reads_before_the_dependency_needs_the_middleware() -> None:
    head = {"content-type": FORM}
    assert TestClient(within_middleware()).post("/fields", content=b"to=alice", headers=head).text == "alice"
    assert TestClient(within_middleware()).post("/fields", content=b"to=mallory", headers=head).status_code == 403
    answer = TestClient(with_dependency()).post("/fields", content=b"to=alice", headers=head)
    assert answer.status_code == 403
    assert "so its body was already read: use the middleware" in answer.json()["detail"]


def test_a_body_with_two_content_types_is_unknown(client: TestClient) -> None:
    """The first of them says JSON to the one, the last a form to the other."""
    heads = [("content-type", FORM), ("content-type", JSON)]
    answer = client.post("/json", content=b"to=alice", headers=heads)
    assert "the body has more than one `Content-Type`" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("type_", "content"), [(FORM, b"to=alice&_method=DELETE"), (JSON, b'{"to":"alice","_method":"DELETE"}')]
)
def test_a_body_that_overrides_the_method_is_denied(client: TestClient, type_: str, content: bytes) -> None:
    answer = client.post("/json", content=content, headers={"content-type": type_})
    assert "the body names another method (`_method`)" in answer.json()["detail"]
