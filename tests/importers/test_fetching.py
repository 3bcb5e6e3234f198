"""Specifications from a URL: a real server that is slow, long, missing, or sends the reader elsewhere."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from policyengine.http.fetch import split_proxy
from policyengine.importers import ApiImportError, fetch, read_openapi
from tests.importers.bringing import spec

BODY = {"content": {"application/json": {"schema": {"$ref": "parts/pet.json"}}}}
SPEC = spec({"/p": {"post": {"requestBody": BODY}}})


@contextmanager
def serving(pages):
    """`pages` by path: what they answer, or a URL that they redirect to; and what was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            page = pages.get(self.path)
            self.send_response(404 if page is None else 302 if isinstance(page, str) else 200)
            if isinstance(page, str):
                self.send_header("Location", page)
            self.end_headers()
            if isinstance(page, bytes):
                self.wfile.write(page)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_specification_url_is_read_with_references_on_the_same_server():
    pet = json.dumps({"properties": {"name": {"type": "string"}}}).encode()
    with serving({"/v1/api.json": json.dumps(SPEC).encode(), "/v1/parts/pet.json": pet}) as (url, asked):
        api = read_openapi(f"{url}/v1/api.json")
    assert [fact.written for fact in api.operations[0].facts] == ["body.name: string?"]
    assert asked == ["/v1/api.json", "/v1/parts/pet.json"]


def test_a_reference_to_another_server_is_not_fetched():
    with serving({"/x": b"{}"}) as (other, asked):
        away = json.dumps(SPEC).replace("parts/pet.json", f"{other}/x").encode()
        with serving({"/api.json": away}) as (url, _):
            api = read_openapi(f"{url}/api.json")
    assert "leads to another server" in api.notes[0]
    assert asked == []


def test_a_redirect_to_another_server_is_rejected():
    with serving({"/x": b"{}"}) as (other, asked), serving({"/api.json": f"{other}/x"}) as (url, _):
        with pytest.raises(ApiImportError, match=r"the server redirects to another server, `.*/x`"):
            read_openapi(f"{url}/api.json")
        assert asked == []


def test_a_redirect_on_the_same_server_is_followed():
    with serving({"/api.json": "/v2.json", "/v2.json": json.dumps(spec({"/x": {"get": {}}})).encode()}) as (url, _):
        assert read_openapi(f"{url}/api.json").operations[0].key == "GET /x"


def test_endless_redirects_are_rejected():
    with serving({"/api.json": "/api.json"}) as (url, asked):
        with pytest.raises(ApiImportError, match="the server redirects more than 10 times"):
            read_openapi(f"{url}/api.json")
        assert len(asked) == 11


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        ({"https_proxy": "http://proxy.example:3128"}, "http://proxy.example:3128"),
        ({"https_proxy": "proxy.example:3128"}, "http://proxy.example:3128"),
        ({"http_proxy": "http://proxy.example"}, None),
        ({"https_proxy": "http://proxy.example", "no_proxy": ".acme.example"}, None),
    ],
)
def test_the_proxy_is_read_from_the_environment(monkeypatch, variables, found):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert fetch.environment_proxy("https://api.acme.example/openapi.json") == found


def test_proxy_credentials_are_split_from_the_url():
    assert split_proxy("http://u%40x:p%3Aq@proxy.example:3128") == ("http://proxy.example:3128", ("u@x", "p:q"))
    assert split_proxy("http://proxy.example") == ("http://proxy.example", None)


def test_a_404_response_is_reported():
    with (
        serving({}) as (url, _),
        pytest.raises(ApiImportError, match=r"`http.*/api.json`: the server responded with 404 Not Found"),
    ):
        read_openapi(f"{url}/api.json")


def test_an_overlong_response_is_rejected(monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", 1_000)
    with (
        serving({"/api.json": b" " * 1_001}) as (url, _),
        pytest.raises(ApiImportError, match="longer than 1,000 bytes"),
    ):
        read_openapi(f"{url}/api.json")


def test_a_slow_response_times_out(monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.0001)
    with (
        serving({"/api.json": b" " * 100}) as (url, _),
        pytest.raises(ApiImportError, match="the server did not answer in time"),
    ):
        read_openapi(f"{url}/api.json")


def test_an_unreachable_specification_server_is_reported():
    with serving({}) as (url, _):
        pass
    with pytest.raises(ApiImportError, match=r"`http.*/api.json`: the server cannot be reached: connection refused"):
        read_openapi(f"{url}/api.json")


def test_an_overlong_specification_file_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", 10)
    (tmp_path / "api.json").write_text(" " * 11)
    with pytest.raises(ApiImportError, match="longer than 10 bytes"):
        read_openapi(str(tmp_path / "api.json"))


@pytest.mark.parametrize(
    ("name", "told"), [("nothing.json", "the file does not exist"), (".", "this is not a regular file")]
)
def test_a_missing_file_and_a_folder_are_rejected_as_specification(tmp_path, monkeypatch, name, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ApiImportError, match=told):
        read_openapi(name)
