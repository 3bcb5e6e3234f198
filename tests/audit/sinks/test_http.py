"""Batches over HTTP, as a strict server receives them: signed, within their time, and to nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from policyengine.audit.sinks.http import HttpTransport
from policyengine.audit.sinks.sink_set import SinkSetupError, open_transport
from policyengine.audit.sinks.targets import parse_sink
from policyengine.audit.sinks.transport import LinesRefusedError, SinkError, SinkLine, Transport, read_sink_line
from policyengine.http.poster import retry_seconds
from tests.audit.sinks.lines import decision, ids, numbered
from tests.audit.sinks.receivers import Receiver, certificate, http_receiver
from tests.pages import CHECKOUT, blocks
from tests.processes import is_usually_within

SECRET = "whsec_c2VjcmV0IGZvciBzaWduYXR1cmVz"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as found:
        yield found


OPENED: list[Transport] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def opened(url: str) -> Transport:
    OPENED.append(open_transport(parse_sink(url)))
    return OPENED[-1]


def lines(*raw: bytes) -> list[SinkLine]:
    return [line for each in raw if (line := read_sink_line(each.rstrip(b"\n"))) is not None]


def transport(receiver: Receiver, options: str = "", path: str = "/in") -> Transport:
    return opened(f"http://127.0.0.1:{receiver.port}{path}#name=s{options}")


def test_a_batch_is_json_lines(receiver):
    transport(receiver, path="/in?source=a%20b").send(lines(decision(1), decision(2)))
    [request] = receiver.requests
    assert request.path == "/in?source=a%20b"
    assert request.headers["content-type"] == "application/x-ndjson"
    assert request.body == decision(1) + decision(2)


def test_a_batch_may_be_an_array(receiver):
    transport(receiver, "&format=array").send(lines(decision(1), decision(2)))
    [request] = receiver.requests
    assert request.headers["content-type"] == "application/json"
    assert [each["decision"]["id"] for each in json.loads(request.body)] == numbered(1, 2)


@pytest.mark.parametrize(
    ("options", "kind", "member"),
    [("&records=ocsf", "application/x-ndjson", "class_uid"),
     ("&records=cloudevents&format=array", "application/cloudevents-batch+json", "specversion")],
)  # fmt: skip
def test_records_may_be_events(receiver, options, kind, member):
    transport(receiver, options).send(lines(decision(1)))
    [request] = receiver.requests
    assert request.headers["content-type"] == kind
    found = json.loads(request.body)
    assert member in (found[0] if isinstance(found, list) else found)


def test_a_connection_is_used_again(receiver):
    sends = transport(receiver)
    for number in range(3):
        sends.send(lines(decision(number)))
    sends.close()
    assert (receiver.connections, len(receiver.requests)) == (1, 3)


def test_headers_come_from_secrets(receiver, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("Splunk 123\n")
    monkeypatch.setenv("TENANT", "acme")
    transport(receiver, f"&header.authorization=file:{tmp_path / 'token'}&header.x-tenant=env:TENANT").send(
        lines(decision(1))
    )
    headers = receiver.requests[0].headers
    assert (headers["authorization"], headers["x-tenant"]) == ("Splunk 123", "acme")


def test_a_missing_secret_is_a_failure_that_names_it(receiver, monkeypatch):
    monkeypatch.delenv("TENANT", raising=False)
    with pytest.raises(SinkError, match=r"^`env:TENANT` is not set$"):
        transport(receiver, "&header.x-tenant=env:TENANT").send(lines(decision(1)))
    assert receiver.requests == []


# ── Signatures ────────────────────────────────────────────────────────────────────────────────


def test_a_receiver_verifies_the_signature_with_a_library_of_the_specification(receiver, monkeypatch):
    monkeypatch.setenv("KEY", SECRET)
    transport(receiver, "&hmac=env:KEY&format=array").send(lines(decision(1)))
    [request] = receiver.requests
    Webhook(SECRET).verify(request.body, request.headers)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(SECRET).verify(request.body.replace(b"D1", b"D2"), request.headers)


def test_the_documented_receiver_accepts_a_batch(receiver, monkeypatch):
    monkeypatch.setenv("KEY", SECRET)
    transport(receiver, "&hmac=env:KEY").send(lines(decision(1), decision(2)))
    [request] = receiver.requests
    accept = documented("audit-export.md", "def accept(")["accept"]
    assert accept(request.body, request.headers, SECRET) == [
        each.decode().rstrip() for each in (decision(1), decision(2))
    ]
    with pytest.raises(WebhookVerificationError):
        accept(request.body.replace(b"D1", b"D2"), request.headers, SECRET)


def documented(page: str, words: str) -> dict[str, Any]:
    """Return the names that the Python block of a page defines that contains these words."""
    [text] = [
        each.text for each in blocks(CHECKOUT / "docs" / page) if each.language == "python" and words in each.text
    ]
    names: dict[str, Any] = {}
    exec(compile(text, page, "exec"), names)
    return names


def test_a_secret_without_prefix_is_the_key_itself(receiver, monkeypatch):
    monkeypatch.setenv("KEY", "plain")
    transport(receiver, "&hmac=env:KEY&format=array").send(lines(decision(1)))
    Webhook("cGxhaW4=").verify(receiver.requests[0].body, receiver.requests[0].headers)


def test_the_same_batch_has_the_same_id_and_a_new_time(receiver, monkeypatch):
    monkeypatch.setenv("KEY", SECRET)
    now = [1_800_000_000.0]
    sends = HttpTransport(parse_sink(f"http://127.0.0.1:{receiver.port}/#hmac=env:KEY"), lambda: now[0])
    OPENED.append(sends)
    sends.send(lines(decision(1)))
    now[0] += 60
    sends.send(lines(decision(1)))
    first, second = (request.headers for request in receiver.requests)
    assert first["webhook-id"] == second["webhook-id"]
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1800000000", "1800000060")
    assert first["webhook-signature"] != second["webhook-signature"]


def test_a_secret_that_is_not_base64_is_a_failure(receiver, monkeypatch):
    monkeypatch.setenv("KEY", "whsec_???")
    with pytest.raises(SinkError, match=r"^the secret for signatures begins with `whsec_`, but is not base64$"):
        transport(receiver, "&hmac=env:KEY").send(lines(decision(1)))


# ── Answers ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_every_success_is_accepted(receiver, status):
    receiver.statuses = [status]
    receiver.body = b""
    assert transport(receiver).send(lines(decision(1))) == 0


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_answer_about_the_content_refuses_the_lines(receiver, status):
    receiver.statuses = [status]
    with pytest.raises(LinesRefusedError) as raised:
        transport(receiver).send(lines(decision(1)))
    assert str(raised.value) == f"the receiver answers {status}"


@pytest.mark.parametrize("status", [401, 403, 404, 405, 408, 409, 429, 500, 502, 503, 504])
def test_every_other_answer_is_a_failure_of_the_receiver(receiver, status):
    receiver.statuses = [status]
    with pytest.raises(SinkError) as raised:
        transport(receiver).send(lines(decision(1)))
    assert not isinstance(raised.value, LinesRefusedError)
    assert str(raised.value) == f"the receiver answers {status}"


def test_retry_after_is_passed_on(receiver):
    receiver.statuses, receiver.headers = [429], {"Retry-After": "7"}
    with pytest.raises(SinkError) as raised:
        transport(receiver).send(lines(decision(1)))
    assert raised.value.retry_after == 7.0


@pytest.mark.parametrize(
    ("written", "seconds"), [("0", 0.0), ("120", 120.0), ("", None), ("soon", None), ("-1", None),
                             ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Wed, 99 Oct", None)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(written, seconds):
    assert retry_seconds(written) == seconds


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receiver, status):
    with http_receiver() as elsewhere:
        receiver.statuses = [status]
        receiver.headers = {"Location": f"http://127.0.0.1:{elsewhere.port}/"}
        with pytest.raises(SinkError) as raised:
            transport(receiver).send(lines(decision(1)))
        assert elsewhere.connections == 0
    assert str(raised.value) == f"the receiver answers {status}, and redirects are not followed"


def test_a_proxy_from_the_environment_is_not_used(receiver, monkeypatch):
    with http_receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        transport(receiver).send(lines(decision(1)))
        assert (proxy.connections, len(receiver.requests)) == (0, 1)


def test_a_receiver_that_does_not_answer_in_time_is_a_failure(receiver):
    receiver.may_answer.clear()

    def send() -> None:
        with pytest.raises(SinkError, match=r"^the server did not answer in time$"):
            transport(receiver, "&timeout=0.2").send(lines(decision(1)))

    assert is_usually_within(5, send)


def test_a_receiver_that_is_gone_is_a_failure():
    with http_receiver() as receiver:
        sends = transport(receiver)
        sends.send(lines(decision(1)))
    sends.close()
    with pytest.raises(SinkError, match=r"^the server cannot be reached: connection refused$"):
        sends.send(lines(decision(2)))


def test_only_the_beginning_of_an_answer_is_read(receiver):
    receiver.body = b"x" * 5_000_000
    sends = transport(receiver)
    assert [sends.send(lines(decision(number))) for number in (1, 2)] == [0, 0]
    assert ids(request.body for request in receiver.requests) == numbered(1, 2)


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────


def test_a_certificate_that_is_not_trusted_is_refused(tmp_path):
    path, context = certificate(tmp_path)
    with http_receiver(context) as receiver:
        url = f"https://127.0.0.1:{receiver.port}/#name=s"
        with pytest.raises(SinkError, match=r"^the server cannot be reached: certificate verify failed"):
            opened(url).send(lines(decision(1)))
        assert receiver.requests == []
        opened(f"{url}&ca={path}").send(lines(decision(1)))
        assert len(receiver.requests) == 1


def test_a_certificate_for_another_name_is_refused(tmp_path):
    path, context = certificate(tmp_path)
    with http_receiver(context) as receiver:
        url = f"https://localhost:{receiver.port}/#name=s&ca={path}"
        with pytest.raises(SinkError, match="certificate verify failed: hostname mismatch"):
            opened(url).send(lines(decision(1)))
        assert receiver.requests == []


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("http://siem.example/s3cret", "the sink `http://siem.example`: the URL must begin with `https://`",
         "`#plain_http=true` permits `http://` to other machines: anyone on the network path can then read the "
         "records"),
        ("https://siem.example/#name=s&ca=missing.pem",
         "the sink `s`: the certificates of `missing.pem` cannot be used: no such file or directory",
         "`ca` must name a PEM file"),
    ],
)  # fmt: skip
def test_a_sink_that_could_never_send_is_reported_at_once(url, message, hint):
    with pytest.raises(SinkSetupError) as raised:
        open_transport(parse_sink(url))
    assert (raised.value.message, raised.value.hint) == (message, hint)


def test_plain_http_to_other_machines_can_be_permitted():
    open_transport(parse_sink("http://siem.example/#plain_http=true"))


def test_the_certificate_file_is_the_only_trusted_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    path, _ = certificate(tmp_path / "a")
    _, context = certificate(tmp_path / "b")
    with http_receiver(context) as receiver, pytest.raises(SinkError, match="certificate verify failed"):
        opened(f"https://127.0.0.1:{receiver.port}/#ca={path}").send(lines(decision(1)))
