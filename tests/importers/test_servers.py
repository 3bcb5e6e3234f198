"""MCP servers that run for real, asked for their tools over both of their transports."""

import json
import shlex
import socket
import subprocess
import sys
import time

import pytest

from policyengine.importers import ApiImportError, ApiOperationKind, import_policies, read_tools
from policyengine.importers.mcp_client import list_server_tools
from tests import forking
from tests.importers.bringing import assert_sound

pytest.importorskip("mcp", reason="missing: pip install '.[mcp]'")

from tests.integrations.era_servers import MODERN, EraServer, LegacyListFails
from tests.integrations.serving import serving
from tests.ports import free_port
from tests.processes import stop

SERVER = """\
import sys
from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("Demo Files")


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def read_file(path: str, line: int = 1) -> str:
    "Read a file."
    return path


@server.tool()
def write_file(path: str) -> str:
    return path


@server.resource("notes://readme")
def readme() -> str:
    return ""


@server.resource("notes://{box}/{name}")
def note(box: str, name: str) -> str:
    return ""


@server.prompt()
def greet(who: str) -> str:
    return who


if sys.argv[1:]:
    import uvicorn

    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="critical")
else:
    server.run()
"""


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    return tmp_path / "server.py"


def summary(api):
    return [(one.endpoint.written, one.kind, [fact.written for fact in one.facts]) for one in api.operations]


def test_what_a_stdio_server_offers_is_imported_as_a_valid_policy(server, tmp_path):
    api = read_tools(shlex.join(forking.script(server)))
    assert summary(api) == [
        ("TOOL demo_files/read_file", ApiOperationKind.READ, ["args.path: string", "args.line: int?"]),
        ("TOOL demo_files/write_file", ApiOperationKind.DELETE, ["args.path: string"]),
    ]
    assert [(str(one.kind), one.name, one.arguments) for one in api.offers.listed] == [
        ("resource", "notes://readme", ()), ("template", "notes://*/*", ()), ("prompt", "greet", ("who",)),
    ]  # fmt: skip
    import_policies(tmp_path / "p", api, "policyengine init")
    assert_sound(tmp_path / "p")
    client = (tmp_path / "p/offers/client.policy").read_text()
    assert '# may ACTION elicit mcp_client when resource.id == "demo_files"' in client


def test_tools_of_an_http_server_are_listed(server):
    port = free_port()
    with subprocess.Popen([*forking.script(server), str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            api = read_tools(f"http://127.0.0.1:{port}/mcp", "files")
        finally:
            stop(process)
    assert [written for written, _, _ in summary(api)] == ["TOOL files/read_file", "TOOL files/write_file"]


def wait_for(port):
    """Until somebody listens: a connection that is refused comes back at once."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise TimeoutError


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (f"{shlex.quote(sys.executable)} -c pass", "listing the tools failed"),
        ("no-such-command-here --x", "listing the tools failed"),
        ("http://127.0.0.1:9/mcp", "listing the tools failed"),
        ('echo "', "the command cannot be split into words: no closing quotation"),
        (" ", "the command is empty"),
    ],
)
def test_a_source_that_does_not_speak_mcp_is_reported(source, told):
    with pytest.raises(ApiImportError) as raised:
        read_tools(source)
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        (f"{shlex.quote(sys.executable)} -c pass", "the command must start a server that speaks MCP over stdio"),
        ("no-such-tools.txt", "a file name must end in `.json`"),
    ],
)
def test_the_hint_suits_the_source_that_does_not_speak_mcp(source, hint):
    with pytest.raises(ApiImportError) as raised:
        read_tools(source)
    assert str(raised.value.hint).startswith(hint)


def test_a_tool_list_in_a_file_needs_no_server(tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps({"tools": [{"name": "x"}]}))
    assert len(read_tools(str(tmp_path / "tools.json")).operations) == 1


@pytest.mark.parametrize(("speaks", "versions"), [("modern", 1), ("both", 2), ("legacy", 1)])
def test_a_server_that_has_only_the_newest_version_needs_no_note(speaks, versions):
    found = list_server_tools("server", lambda: EraServer(speaks).connect())
    assert (len(found.listings), found.notes) == (versions, ())


def test_a_failed_list_of_older_versions_is_told():
    [note] = list_server_tools("server", lambda: LegacyListFails().connect()).notes
    assert note == (
        f"the tools could not be listed in versions of MCP before {MODERN}: MCPError: no list ?here??; if the server "
        "defines them differently there, clients of these versions cannot use them until they are reviewed"
    )


def test_a_failed_list_of_older_versions_is_told_by_init():
    """Over HTTP, like a server that a person names."""
    with serving(LegacyListFails()) as url:
        [note] = read_tools(f"{url}/mcp", "files").notes
    assert note.startswith(f"the tools could not be listed in versions of MCP before {MODERN}: MCPError: no list")
    with serving(EraServer("modern")) as url:
        assert read_tools(f"{url}/mcp", "files").notes == ()
