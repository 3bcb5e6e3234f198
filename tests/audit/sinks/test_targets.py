"""Sinks as operators write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyengine.audit.sinks.secret_values import SecretValue, SecretValueError
from policyengine.audit.sinks.targets import (
    BatchFormat,
    OnLag,
    RecordFormat,
    SinkKind,
    SinkTargetError,
    parse_sink,
    parse_sinks,
)


@pytest.mark.parametrize(
    ("url", "kind", "sends_to", "place"),
    [
        ("stdout:", SinkKind.STDOUT, "stdout:", "stdout"),
        ("https://siem.example/in?a=1", SinkKind.HTTP, "https://siem.example/in?a=1", "https://siem.example"),
        ("otlp+http://c:4318", SinkKind.OTLP, "http://c:4318/v1/logs", "otlp+http://c:4318"),
        ("otlp+https://c/a/logs", SinkKind.OTLP, "https://c/a/logs", "otlp+https://c"),
        ("syslog+udp://h", SinkKind.SYSLOG, "udp://h", "syslog+udp://h"),
        ("syslog+tls://h:6514/", SinkKind.SYSLOG, "tls://h:6514", "syslog+tls://h:6514"),
        ("syslog+tcp://[::1]:601", SinkKind.SYSLOG, "tcp://[::1]:601", "syslog+tcp://[::1]:601"),
        ("syslog+unix:///dev/log", SinkKind.SYSLOG, "unix:///dev/log", "syslog+unix:///dev/log"),
    ],
)
def test_a_url_names_a_sink(url, kind, sends_to, place):
    target = parse_sink(url)
    assert (target.kind, target.url, target.place) == (kind, sends_to, place)


def test_options_follow_the_url_and_are_not_part_of_it():
    target = parse_sink(
        "https://siem.example/in#name=siem&lag=5MB&on_lag=deny&format=array&records=ocsf&hmac=env:KEY&timeout=2.5"
        "&ca=ca.pem&header.Authorization=file:/run/token&header.X-Tenant=env:TENANT"
    )
    assert target.url == "https://siem.example/in"
    assert (target.name, target.lag, target.on_lag, target.timeout) == ("siem", 5_000_000, OnLag.DENY, 2.5)
    assert (target.format, target.records, target.ca) == (BatchFormat.ARRAY, RecordFormat.OCSF, Path("ca.pem"))
    assert target.hmac == SecretValue("env", "KEY")
    assert target.headers == {
        "authorization": SecretValue("file", "/run/token"),
        "x-tenant": SecretValue("env", "TENANT"),
    }


def test_a_sink_without_a_name_is_named_after_its_host_and_keeps_its_name():
    first, other = parse_sink("https://siem.example/in?token=a"), parse_sink("https://siem.example/in?token=b")
    assert first.name.startswith("http-siem.example-")
    assert first.name != other.name
    assert first.name == parse_sink("https://siem.example/in?token=a#timeout=3").name


def test_the_description_of_a_sink_does_not_show_its_url():
    assert "s3cret" not in repr(parse_sink("https://siem.example/in/s3cret?key=s3cret"))


OF_HTTP = "its options are `name`, `lag`, `on_lag`, `format`, `records`, `hmac`, `plain_http`, `timeout`"


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("siem", "a sink must be a URL", None),
        ("ftp://h", "`ftp:` is not a sink", None),
        ("stdout:x", "`stdout:` is not a sink", None),
        ("http://", "`http:` is not a sink", None),
        ("syslog://h", "`syslog:` is not a sink", None),
        ("syslog+tcp://h/path", "`syslog+tcp:` is not a sink", None),
        ("syslog+unix://h/dev/log", "`syslog+unix:` is not a sink", None),
        ("https://h:99999/", "a sink is not a valid URL", None),
        ("https://h/ x", "a sink must be a URL without spaces and control characters", None),
        ("https://u:s3cret@h/", "a sink must have no password in its URL: `https://…@h`",
         "pass it in a header: `#header.authorization=env:NAME`"),
        ("http://h/#color=red", "`color` is not an option of the sink `http:`", OF_HTTP),
        ("stdout:#timeout=1", "`timeout` is not an option of the sink `stdout:`",
         "its options are `name`, `lag`, `on_lag`"),
        ("http://h/#name", "the options of a sink are malformed", "write them as `#name=siem&lag=500MB`"),
        ("http://h/#name=A", "the name of a sink must be 1 to 64 lower-case letters, digits, `.`, `_` and `-`, and "
         "begin with a letter or digit",
         "as in `#name=siem`"),
        ("http://h/#lag=1KB", "`lag=1KB` is not a size of at least 1MB", "write `#lag=500MB`, for example"),
        ("http://h/#on_lag=stop", "`on_lag=stop` is not an option of a sink",
         "write `on_lag=deny` or `on_lag=continue`"),
        ("http://h/#timeout=0", "`timeout=0` is not a number of seconds from 0.1 to 300", "as in `#timeout=10`"),
        ("http://h/#timeout=nan", "`timeout=nan` is not a number of seconds from 0.1 to 300", "as in `#timeout=10`"),
        ("http://h/#hmac=s3cret", "`hmac` of a sink: a secret must be written as `env:NAME` or `file:PATH`",
         "as in `#hmac=env:NAME`"),
        ("http://h/#header.host=env:A", "a sink cannot set the header `host`", "use another header"),
        ("http://h/#plain_http=yes", "`plain_http=yes` is neither true nor false", "write `#plain_http=true`"),
        ("http://h/#lag=2MB&lag=3MB", "the option `lag` of a sink occurs twice", "write it once"),
        ("https://h/#ca=", "`ca` of a sink has no file", "as in `#ca=ca.pem`"),
        ("otlp+http://h/#service=", "`service` of a sink is empty or too long", "as in `#service=policyengine`"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_without_the_secret(url, message, hint):
    with pytest.raises(SinkTargetError) as raised:
        parse_sink(url)
    assert raised.value.message == message
    assert raised.value.hint == hint or hint is None
    assert "s3cret" not in f"{raised.value.message} {raised.value.hint}"


def test_an_unknown_facility_is_reported_with_the_known_ones():
    with pytest.raises(SinkTargetError) as raised:
        parse_sink("syslog+udp://h#facility=x")
    assert raised.value.message == "`x` is not a facility of syslog"
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("choose one of `kern`, ")


def test_two_sinks_need_two_names():
    with pytest.raises(SinkTargetError, match=r"^two sinks are called `stdout`$"):
        parse_sinks(["stdout:", "stdout:"])


# ── Secrets ───────────────────────────────────────────────────────────────────────────────────


def test_a_secret_is_read_from_its_variable_or_file_each_time(tmp_path):
    path = tmp_path / "key"
    path.write_text("first\n")
    secret = SecretValue.parse(f"file:{path}")
    assert secret.read() == "first"
    path.write_text("second\n")
    assert secret.read() == "second"
    assert SecretValue.parse("env:KEY").read({"KEY": "third"}) == "third"


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "`env:KEY` is not set"), ("a\r\nb", "`env:KEY` is not one line of printable ASCII text"),
     ("ключ", "`env:KEY` is not one line of printable ASCII text")],
)  # fmt: skip
def test_a_secret_that_would_break_a_header_is_refused(text, message):
    with pytest.raises(SecretValueError) as raised:
        SecretValue.parse("env:KEY").read({"KEY": text})
    assert str(raised.value) == message


def test_a_missing_file_of_a_secret_is_named(tmp_path):
    with pytest.raises(SecretValueError, match=r"` cannot be read: no such file or directory$"):
        SecretValue.parse(f"file:{tmp_path / 'key'}").read()
