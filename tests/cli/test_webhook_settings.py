"""The webhooks of `policyengine.toml`: mistakes are reported before anything is served, and no secret is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import load_settings
from policyengine.cli.webhook_setup import check_webhooks, open_webhooks, spool_path
from policyengine.webhooks.target import WebhookFormat, WebhookTarget
from tests.webhooks.sending import SECRET, secret_file

SLACK = "https://hooks.slack.com/services/T0/B0/hunter2"
GOOD = f'[webhooks.finance]\nurl = "{SLACK}"\nformat = "slack"\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.policy").write_text("anyone { may GET /health }\n")
    secret_file(tmp_path)
    return tmp_path


def targets(project: Path, text: str) -> tuple[WebhookTarget, ...]:
    (project / "policyengine.toml").write_text(text)
    return load_settings([project / "p.policy"], {}).webhooks


def refused(project: Path, text: str) -> CommandError:
    with pytest.raises(CommandError) as caught:
        targets(project, text)
    assert caught.value.kind == "configuration"
    return caught.value


def test_a_webhook_of_the_settings_is_a_target(project: Path) -> None:
    text = """
    [webhooks.finance]
    url = "https://hooks.example/a"
    secret_files = ["old", "secret"]
    events = ["opened", "expired"]
    approvers = ["role finance"]
    include_request = true
    [webhooks.chat]
    url_file = "/run/secrets/slack"
    format = "slack"
    """
    chat, finance = targets(project, text)
    assert (chat.name, chat.url, chat.url_file, chat.format) == (
        "chat", None, Path("/run/secrets/slack"), WebhookFormat.SLACK
    )  # fmt: skip
    assert finance.secret_files == (project / "old", project / "secret")
    assert (finance.events, finance.approvers, finance.include_request) == (
        ("opened", "expired"), ("role finance",), True
    )  # fmt: skip
    assert (finance.allow_private, finance.timeout) == (False, 10.0)


def test_one_secret_needs_no_list(project: Path) -> None:
    [found] = targets(project, '[webhooks.a]\nurl = "https://a.example"\nsecret_files = "secret"\n')
    assert found.secret_files == (project / "secret",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a webhook needs `url` or `url_file`, and not both"),
        ('url = "https://a.example"\nurl_file = "f"', "a webhook needs `url` or `url_file`, and not both"),
        ('url = "https://a.example"\nformat = "jsn"', "`format` must be one of `json`, `slack`, `slack-workflow`"),
        ('url = "https://a.example"', "a webhook with the format `json` needs `secret_files`"),
        (f'url = "{SLACK}"\nformat = "slack"\nevents = []', "`events` is empty"),
        (f'url = "{SLACK}"\nformat = "slack"\nevents = ["open"]', "`events[0]` must be one of `opened`"),
        (f'url = "{SLACK}"\nformat = "slack"\nurls = "x"', "unknown key `urls`"),
        (f'url = "{SLACK}"\nformat = "slack"\ntimeout = 3600', "`timeout` must be a number of seconds, from 0.1 to 60"),
        ('url = "http://hunter2.example"\nformat = "slack"', "`url`: the URL must begin with `https://`"),
        ('url = "http://127.0.0.1:9"\nformat = "slack"', "`url`: the URL must begin with `https://`"),
        ('url = "https://a:hunter2@b.example"\nformat = "slack"', "`url`: the URL must have a host, and neither"),
        ('url = "https://169.254.169.254/"\nformat = "slack"\nallow_private = true', "an address that may not be used"),
        ('url = "localhost:8080/hunter2"\nformat = "slack"', "`url`: the URL must begin with `https://`"),
        ('url = "file:///etc/hunter2"\nformat = "slack"', "`url`: the URL must have a host"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_without_the_url(project: Path, text: str, message: str) -> None:
    error = refused(project, f"[webhooks.finance]\n{text}\n")
    shown = f"{error.message}\n{error.hint}\n{error.detail}"
    assert message in shown
    assert "hunter2" not in shown


def test_a_name_is_a_short_word(project: Path) -> None:
    assert "`Fin Ance`" in refused(project, f'[webhooks."Fin Ance"]\nurl = "{SLACK}"\nformat = "slack"\n').message


def test_there_is_a_bound_for_webhooks(project: Path) -> None:
    text = "".join(f'[webhooks.a{number}]\nurl = "{SLACK}"\nformat = "slack"\n' for number in range(21))
    assert "there are more than 20 webhooks" in refused(project, text).message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('secret_files = ["none"]', "cannot be read: no such file"),
        ('secret_files = ["short"]', "fewer than 24 bytes"),
        ('secret_files = ["bad"]', "is not base64"),
        ('ca = "none.pem"', "cannot be used: no such file"),
    ],
)
def test_secrets_and_certificates_are_checked_before_serving(project: Path, more: str, message: str) -> None:
    secret_file(project, "hunter2", "short")
    secret_file(project, "whsec_hunter2%", "bad")
    targets(project, f"{GOOD}{more}\n")
    with pytest.raises(CommandError, match=message) as caught:
        check_webhooks(load_settings([project / "p.policy"], {}))
    assert caught.value.message.startswith("`[webhooks.finance]`: ")
    assert "hunter2" not in caught.value.message


def test_the_hint_permits_only_what_is_not_permitted_yet(project: Path) -> None:
    assert "allow_private" in str(refused(project, GOOD.replace("https:", "http:")).hint)
    assert refused(project, GOOD.replace("https:", "http:") + "allow_private = true\n").hint is None


def test_a_missing_file_with_a_url_is_not_taken_for_a_secret(project: Path) -> None:
    targets(project, '[webhooks.a]\nurl_file = "none"\nformat = "teams"\n')
    with pytest.raises(CommandError, match="cannot be read: no such file") as caught:
        check_webhooks(load_settings([project / "p.policy"], {}))
    assert caught.value.hint == "write the URL of the webhook into the file that `url_file` names, as its only line"


def test_a_url_in_a_file_is_checked_before_serving(project: Path) -> None:
    (project / "url").write_text("http://hunter2.example/\n")
    targets(project, '[webhooks.a]\nurl_file = "url"\nformat = "teams"\n')
    with pytest.raises(CommandError, match="must begin with `https://`"):
        check_webhooks(load_settings([project / "p.policy"], {}))


@pytest.mark.parametrize(
    ("text", "store", "log", "place"),
    [
        ("", "memory:", None, None),
        ("", "redis://127.0.0.1", "d.jsonl", "d.jsonl.webhooks"),
        ("", "sqlite:///state.db", "d.jsonl", "state.db.webhooks"),
        ('[approvals]\nwebhook_spool = "s"\n', "sqlite:///state.db", None, "{project}/s"),
    ],
)
def test_the_spool_is_next_to_the_store_or_the_log(
    project: Path, text: str, store: str, log: str | None, place: str | None
) -> None:
    targets(project, GOOD + text)
    found = spool_path(load_settings([project / "p.policy"], {}), store, None if log is None else Path(log))
    assert found == (None if place is None else Path(place.format(project=project)))


def test_another_database_is_no_spool(project: Path) -> None:
    import sqlite3

    targets(project, f'{GOOD}[approvals]\nwebhook_spool = "s"\n')
    other = sqlite3.connect(project / "s")
    other.execute("CREATE TABLE a (b)")
    other.close()
    with pytest.raises(CommandError, match="another database"):
        open_webhooks(load_settings([project / "p.policy"], {}), "memory:", None, None)


def test_settings_without_webhooks_open_none(project: Path) -> None:
    targets(project, "")
    assert open_webhooks(load_settings([project / "p.policy"], {}), "sqlite:///s", None, None) is None
    assert not (project / "s.webhooks").exists()


# ── Commands ──────────────────────────────────────────────────────────────────────────────────


def test_config_check_checks_webhooks(project: Path, run: Any) -> None:
    (project / "policyengine.toml").write_text(GOOD)
    assert run("config", "check", "p.policy").code == 0
    (project / "policyengine.toml").write_text(f'{GOOD}secret_files = "none"\n')
    ended = run("config", "check", "p.policy")
    assert (ended.code, f"`[webhooks.finance]`: `file:{project}/none` cannot be read" in ended.err) == (1, True)
    assert "hunter2" not in ended.err


def test_config_show_does_not_show_the_url(project: Path, run: Any) -> None:
    (project / "policyengine.toml").write_text(GOOD)
    shown = run("config", "show", "p.policy").out
    assert '[webhooks.finance]\nurl = "***"  # policyengine.toml\nformat = "slack"  # policyengine.toml' in shown
    assert "hunter2" not in shown + run("config", "show", "p.policy", "--format", "json").out


def test_doctor_checks_webhooks(project: Path, run: Any) -> None:
    (project / "policyengine.toml").write_text(GOOD)
    out = run("doctor", "p.policy", "--port", "0").out
    assert "✓ webhooks: 1 webhook can be used" in out
    assert "? webhooks: messages wait in memory: a restart loses them" in out
    assert "· webhooks: the URL of `finance` is a secret in the settings" in out
    assert "· webhooks: messages have no link to the approval" in out
    (project / "secret").chmod(0o644)
    (project / "policyengine.toml").write_text(f'{GOOD}secret_files = ["secret", "none"]\n')
    ended = run("doctor", "p.policy", "--port", "0")
    assert ended.code == 1
    assert f"✗ webhooks: `[webhooks.finance]`: `file:{project}/none` cannot be read" in ended.out
    assert f"? webhooks: others can read `{project}/secret`" in ended.out


def test_a_secret_of_the_documentation_is_accepted(project: Path) -> None:
    """`openssl rand -base64 32`, with and without the prefix."""
    for number, text in enumerate((SECRET, SECRET.removeprefix("whsec_"))):
        file = secret_file(project, text, f"s{number}")
        [found] = targets(project, f'{GOOD}secret_files = ["{file.name}"]\n')
        assert len(found.read_keys()[0]) >= 24


@pytest.mark.parametrize(
    ("approvers", "hint"),
    [
        ("role finance from acmes", "did you mean `role finance from acme`?"),
        ("user", "the rules name `2 of role boss`, `role finance from acme`"),
        ("role finance from acme", None),
        ("2 of role boss", None),
    ],
)
def test_approvers_that_no_rule_names_are_reported(project: Path, run: Any, approvers: str, hint: str | None) -> None:
    (project / "p.policy").write_text(
        'entity user { roles: set<string> }\nissuer acme { url "https://login.acme.example" }\n'
        "anyone { may POST /pay }\n"
        'guard "a" on POST /pay { confirm by role finance from acme within 1h }\n'
        'guard "b" on POST /pay { confirm by 2 of role boss within 1h }\n'
    )
    (project / "url").write_text("https://hooks.example/x")
    (project / "url").chmod(0o600)
    (project / "policyengine.toml").write_text(
        f'[webhooks.chat]\nurl_file = "url"\nformat = "slack"\napprovers = ["{approvers}"]\n'
    )
    ended = run("config", "check", project / "p.policy")
    if hint is None:
        assert ended.code == 0, ended.err
    else:
        message = f"`[webhooks.chat] approvers`: no rule asks for an approval by `{approvers}`"
        assert (ended.code, ended.err) == (1, f"error: {message}\nhint: {hint}\n")


def test_a_webhook_without_a_name_says_where_the_name_goes(project: Path) -> None:
    error = refused(project, f'[webhooks]\nurl = "{SLACK}"\nformat = "slack"\n')
    assert (error.message, error.hint) == (
        "`policyengine.toml`: a webhook needs a name", "write `[webhooks.finance]` instead of `[webhooks]`"
    )  # fmt: skip
    assert "hunter2" not in f"{error.message}{error.hint}{error.detail}"
