"""The MCP servers of `policyengine.toml`: mistakes are reported before anything is served, and `config check --probe`
asks each server."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import load_settings
from policyengine.server.mcp.servers import McpServer
from tests.server.mcp_answers import answering, result, validated


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "p.policy").write_text(
        "entity mcp_server {}\nanyone { may TOOL notes/read, TOOL a/read, ACTION connect mcp_server }\n"
    )
    return tmp_path


def servers(folder: Path, text: str) -> tuple[McpServer, ...]:
    (folder / "policyengine.toml").write_text(text)
    return load_settings([folder / "p.policy"], {}).mcp_servers.servers


def refused(folder: Path, text: str) -> CommandError:
    with pytest.raises(CommandError) as caught:
        servers(folder, text)
    return caught.value


def test_an_mcp_server_has_its_name_paths_and_hosts(folder: Path) -> None:
    (folder / "token").touch()
    [bank, notes] = servers(
        folder,
        '[mcp-servers.notes]\npaths = "/mcp"\n[mcp-servers.bank]\npaths = ["/bank/mcp", "/bank/old"]\n'
        'hosts = ["API.example", "*.bank.example"]\nvalidates_mcp_headers = true\nurl = "https://bank.internal/mcp"\n'
        'token_file = "token"\n',
    )
    assert notes == McpServer("notes", ("/mcp",))
    assert (bank.paths, bank.hosts) == (("/bank/mcp", "/bank/old"), ("*.bank.example", "api.example"))
    assert (bank.validates_headers, bank.url) == (True, "https://bank.internal/mcp")
    assert bank.token_file == folder / "token"


def test_every_host_is_no_restriction(folder: Path) -> None:
    assert servers(folder, '[mcp-servers.a]\npaths = ["/mcp"]\nhosts = ["*"]\n')[0].hosts == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`paths`"),
        ("paths = []", "needs `paths`"),
        ('paths = ["mcp"]', "no slash at the start"),
        ('paths = ["/a/../mcp"]', "a dot segment"),
        ('paths = ["/mcp"]\nvalidates_mcp_headers = true', "needs `url`"),
        ('paths = ["/mcp"]\nurl = "ftp://x"', "`url`"),
        ('paths = ["/mcp"]\nurl = "http://other.example/mcp"\ntoken_file = "x"', "`url`"),
        ('paths = ["/mcp"]\nhosts = ["a b"]', "a b"),
        ('paths = ["/mcp"]\nvalidate = true', "unknown key `validate`"),
    ],
)
def test_a_mistake_is_reported(folder: Path, text: str, message: str) -> None:
    assert message in refused(folder, f"[mcp-servers.notes]\n{text}\n").message


def test_plain_http_to_another_machine_is_for_probes_without_a_token(folder: Path) -> None:
    text = '[mcp-servers.notes]\npaths = ["/mcp"]\nurl = "http://notes.internal/mcp"\n'
    assert servers(folder, text)[0].url == "http://notes.internal/mcp"


def test_a_name_with_a_slash_is_no_server(folder: Path) -> None:
    assert "is not a name" in refused(folder, '[mcp-servers."a/b"]\npaths = ["/mcp"]\n').message


def test_two_servers_cannot_have_one_path(folder: Path) -> None:
    text = '[mcp-servers.a]\npaths = ["/mcp"]\n[mcp-servers.b]\npaths = ["/MCP/"]\n'
    assert "`a` and `b` have the same path `/MCP/`" in refused(folder, text).message


def test_there_is_a_bound_for_mcp_servers(folder: Path) -> None:
    text = "".join(f'[mcp-servers.s{number}]\npaths = ["/{number}"]\n' for number in range(51))
    assert "more than 50 MCP servers" in refused(folder, text).message


def test_the_settings_of_mcp_servers_are_shown(run, folder: Path) -> None:
    servers(folder, '[mcp-servers.notes]\npaths = ["/mcp"]\n')
    assert '[mcp-servers.notes]\npaths = ["/mcp"]' in run("config", "show", "p.policy").out


def test_a_missing_token_file_is_a_mistake(run, folder: Path) -> None:
    servers(folder, '[mcp-servers.notes]\npaths = ["/mcp"]\ntoken_file = "none"\n')
    ended = run("config", "check", "p.policy")
    assert (ended.code, "`[mcp-servers.notes]`: there is no file" in ended.err) == (1, True)


def test_config_check_asks_the_servers_if_told_to(run, folder: Path) -> None:
    with answering(validated) as (server, bodies):
        text = f'[mcp-servers.notes]\npaths = ["/mcp"]\nvalidates_mcp_headers = true\nurl = "{server.url}"\n'
        servers(folder, text)
        assert run("config", "check", "p.policy").code == 0
        assert bodies == []
        ended = run("config", "check", "p.policy", "--probe")
        assert ended.code == 0
        assert "the MCP server `notes` compares its headers with the body of prompts/get, resources/read" in ended.out
        found = run("config", "check", "p.policy", "--probe", "--format", "json").json
        assert found["proved"] == {"notes": ["prompts/get", "resources/read", "tools/call"]}


def test_config_check_reports_a_server_that_ignores_headers(run, folder: Path) -> None:
    with answering(lambda headers, body: result(body)) as (server, _):
        servers(folder, f'[mcp-servers.a]\npaths = ["/mcp"]\nvalidates_mcp_headers = true\nurl = "{server.url}"\n')
        ended = run("config", "check", "p.policy", "--probe")
    assert ended.code == 1
    assert "`[mcp-servers.a]`: it does not refuse a request whose `Mcp-Method` differs from its body" in ended.err


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (
            '[mcp-servers.note]\npaths = ["/mcp"]\nvalidates_mcp_headers = true\nurl = "http://127.0.0.1:9/"\n',
            "mcp-servers.note",
        ),
        ('[authzen]\nmcp_server = "note"\n', "authzen.mcp_server=note"),
    ],
)
def test_serve_refuses_a_server_that_no_rule_can_match(run, folder: Path, settings: str, name: str) -> None:
    (folder / "p.policy").write_text("anyone { may TOOL notes/read }\n")
    servers(folder, settings)
    ended = run("serve", "p.policy", "--port", "0")
    assert ended.code == 2
    assert f"`{name}`: no grant of the policies is for a tool of this server" in ended.err
    assert "did you mean `notes`?" in ended.err


@pytest.mark.parametrize("command", [("config", "check", "p.policy"), ("config", "check", "p.policy", "--probe")])
def test_config_check_refuses_a_server_that_no_rule_can_match(run, folder: Path, command: tuple[str, ...]) -> None:
    servers(folder, NOTES.replace("notes", "note"))
    ended = run(*command)
    assert ended.code == 1
    assert "`mcp-servers.note`: no grant of the policies is for a tool of this server" in ended.err


def test_policies_that_let_no_client_connect_are_a_warning(run, folder: Path) -> None:
    """A client that chooses its version begins with `server/discover`, and shows no reason for its denial."""
    servers(folder, f"{NOTES}[gateway]\nhands_on_nginx = [{FOUR}]\n")
    assert run("config", "check", "p.policy").err == ""
    (folder / "p.policy").write_text("anyone { may TOOL notes/read }\n")
    ended = run("config", "check", "p.policy")
    assert ended.code == 0
    assert "warning: no grant is for `ACTION connect mcp_server`: clients" in ended.err
    assert 'when resource.id == "notes"' in ended.err
    [warning] = run("config", "check", "p.policy", "--format", "json").json["warnings"]
    assert warning["message"].startswith("no grant is for `ACTION connect mcp_server`")
    assert warning["message"] in run("serve", "p.policy", "--port", "0", "--workers", "2", "--socket-mode", "bad").err


def test_the_mcp_server_of_evaluations_and_public_urls_are_settings(folder: Path) -> None:
    [bank] = servers(
        folder, '[authzen]\nmcp_server = "bank"\n[mcp-servers.bank]\nresource = "https://bank.example/mcp"\n'
    )
    assert bank.resource == "https://bank.example/mcp"
    assert load_settings([folder / "p.policy"], {}).mcp_servers.default == "bank"
    assert "must be the name of a server" in refused(folder, '[authzen]\nmcp_server = "a/b"\n').message


def test_doctor_asks_the_servers(run, folder: Path) -> None:
    text = '[mcp-servers.notes]\npaths = ["/mcp"]\nvalidates_mcp_headers = true\nurl = "{}"\n'
    with answering(validated) as (server, _):
        servers(folder, text.format(server.url))
        assert "`notes` compares its headers with the body of" in run("doctor", "p.policy", "--port", "0").out
    with answering(lambda headers, body: result(body)) as (server, _):
        servers(folder, text.format(server.url))
        assert "`Mcp-Method` differs from its body" in run("doctor", "p.policy", "--port", "0").out


NOTES = '[mcp-servers.notes]\npaths = ["/mcp"]\nvalidates_mcp_headers = true\nurl = "http://127.0.0.1:9/"\n'
FOUR = '"Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name", "Mcp-Session-Id"'


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (NOTES, "`[gateway]` does not say which gateway forwards the headers of MCP: behind nginx, requests to the"),
        (f'{NOTES}[gateway]\nhands_on_nginx = ["Mcp-Method", "Mcp-Name"]\n',
         "`hands_on_nginx` does not list `Mcp-Protocol-Version`, `Mcp-Session-Id`: behind this gateway, requests to"),
        (f'{NOTES}[gateway]\nhands_on_envoy = []\nbodies = ["envoy"]\n',
         "requests to the MCP server `notes` are refused unless the gateway sends their bodies"),
        (f"{NOTES}[gateway]\nhands_on_nginx = [{FOUR}]\n", None),
        (f'{NOTES}[gateway]\nhands_on_forward_auth = "all"\n', None),
        ('[mcp-servers.notes]\npaths = ["/mcp"]\n', None),
        ("", None),
    ],
)  # fmt: skip
def test_a_gateway_that_does_not_forward_the_headers_of_mcp_is_a_warning(
    run, folder: Path, text: str, warning: str | None
) -> None:
    servers(folder, text)
    ended = run("config", "check", "p.policy")
    listed = run("config", "check", "p.policy", "--format", "json").json.get("warnings", [])
    assert ended.code == 0
    assert (warning is None) == (ended.err == "") == (listed == [])
    if warning is not None:
        assert ended.err.startswith("warning: ")
        assert warning in ended.err
        assert warning in listed[0]["message"]


def test_a_server_warns_of_headers_of_mcp_that_its_gateway_does_not_forward(run, folder: Path) -> None:
    (folder / "p.policy").write_text("anyone { may TOOL notes/read }\n")
    servers(folder, NOTES)
    ended = run("serve", "p.policy", "--port", "0", "--workers", "2", "--socket-mode", "bad")
    assert "warning: `[gateway]` does not say which gateway forwards the headers of MCP" in ended.err
