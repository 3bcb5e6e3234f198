"""Tool calls that a person must approve, at every enforcement point of MCP: the confirm, the wait, and the question to
the user."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import fastmcp
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.server.mcpserver import Context
from mcp_types import ElicitRequestFormParams, ElicitRequestURLParams, ElicitResult

from policyengine.approvals.eligibility import ProvedPerson
from policyengine.cli import main
from policyengine.cli.commands.mcp_gateway import GatewayOptions, with_pages
from policyengine.cli.errors import CommandError
from policyengine.cli.load_engine import load_engine
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.gateway import http_app
from policyengine.runtime.approval_tickets import TicketState, with_ticket_states
from policyengine.runtime.decision import Decision
from tests import forking
from tests.integrations.approving import (
    ALICE,
    CAROL,
    PAGES,
    POINTS,
    RULE,
    Place,
    Shop,
    at,
    fastmcp_server,
    gateway_of,
    later,
    memory_gateway,
    run,
    sdk_server,
)
from tests.integrations.serving import serving

every_point = pytest.mark.parametrize("point", POINTS)
LARGE = {"amount": 900}


@pytest.fixture
def shop() -> Shop:
    return Shop()


def yes(seen: list[Any]) -> Any:
    async def user(params: Any) -> ElicitResult:
        seen.append(params)
        return ElicitResult(action="accept", content={"approve": True})

    return user


def says(action: Any, content: dict[str, Any] | None = None) -> Any:
    async def user(params: Any) -> ElicitResult:
        return ElicitResult(action=action, content=content)

    return user


# ── The confirm ───────────────────────────────────────────────────────────────────────────────


@every_point
def test_a_confirm_tells_the_model_what_to_do_and_programs_where_the_approval_is(point: str, shop: Shop) -> None:
    async def work() -> None:
        async with at(point, shop, approval_pages=PAGES) as place:
            reply = await place.call("refund", LARGE)
            assert reply.is_error
            id = reply.approval["id"]
            page = f"{PAGES}/approvals/{id}"
            expires = "2027-01-05T12:00:00Z"
            assert reply.approval == {"id": id, "state": "pending", "expires": expires, "poll": 5, "page": page}
            assert reply.structured["outcome"] == "confirm"
            assert reply.text == (
                "The tool was not called, because a person must approve the call first: refund of 900. "
                f"Approval {id} is pending until {expires}. Tell the user that it needs an answer by role finance at "
                f"{page}; after that, call this tool again with exactly the same arguments. Do not change the "
                "arguments, and do not try another way."
            )
        assert shop.calls == []

    run(work())


@every_point
def test_the_same_call_passes_once_after_the_approval(point: str, shop: Shop) -> None:
    async def work() -> None:
        async with at(point, shop) as place:
            await place.call("refund", LARGE)
            shop.approvals.approve(shop.waiting, CAROL)
            assert (await place.call("refund", {"amount": 901})).approval["state"] == "pending"
            assert not (await place.call("refund", LARGE)).is_error
            again = await place.call("refund", LARGE)
            assert again.approval["state"] == "pending"
        assert shop.calls == [900]

    run(work())


@pytest.mark.parametrize("point", ["gateway", "sdk", "fastmcp"])
def test_a_result_that_clients_compare_with_a_schema_has_no_other_structure(point: str, shop: Shop) -> None:
    async def work() -> None:
        async with at(point, shop) as place:
            assert (await place.call("transfer", LARGE)).structured is not None
            await place.client.list_tools()
            reply = await place.call("transfer", LARGE)
            assert reply.structured is None
            assert reply.approval["state"] == "pending"

    run(work())


# ── The wait ──────────────────────────────────────────────────────────────────────────────────


@every_point
def test_a_waiting_call_is_made_once_when_the_approval_comes(point: str, shop: Shop) -> None:
    async def work() -> None:
        async with at(point, shop, wait_for_approval=300) as place:
            reply = await place.call("refund", LARGE, lambda: shop.approvals.approve(shop.waiting, CAROL))
            assert not reply.is_error
        assert shop.calls == [900]
        assert shop.reports == [200]

    run(work())


@every_point
@pytest.mark.parametrize(
    ("answer", "state", "words"),
    [
        (
            lambda shop: shop.approvals.deny(shop.waiting, CAROL, "paid"),
            "denied",
            'with the reason "paid": do not repeat',
        ),
        (lambda shop: shop.approvals.withdraw(shop.waiting), "withdrawn", "to request another"),
        (lambda shop: later(shop, days=2), "expired", "to request another"),
    ],
    ids=["denied", "withdrawn", "expired"],
)
def test_a_wait_ends_when_the_approval_ends(point: str, answer: Any, state: str, words: str, shop: Shop) -> None:
    async def work() -> None:
        async with at(point, shop, wait_for_approval=300) as place:
            reply = await place.call("refund", LARGE, lambda: answer(shop))
            assert reply.approval["state"] == state
            assert words in reply.text
        assert shop.calls == []
        assert shop.decided == 1

    run(work())


def test_a_wait_without_an_answer_ends_in_time(shop: Shop) -> None:
    async def work() -> None:
        async with at("gateway", shop, wait_for_approval=0.05) as place:
            assert (await place.call("refund", LARGE)).approval["state"] == "pending"
        assert shop.decided == 1

    run(work())


@pytest.mark.parametrize("seconds", [-1, 300.5])
def test_a_wait_is_bounded(seconds: float, shop: Shop) -> None:
    async def work() -> None:
        async with at("sdk", shop, wait_for_approval=seconds):
            pass

    with pytest.raises(ValueError, match="from 0 to 300"):
        run(work())


@every_point
def test_a_cancelled_wait_makes_no_call_and_keeps_the_approval(point: str, shop: Shop) -> None:
    async def work() -> None:
        async with at(point, shop, wait_for_approval=300) as place:
            waits = asyncio.Event()
            calling = asyncio.create_task(place.call("refund", LARGE, waits.set))
            await waits.wait()
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
            shop.approvals.approve(shop.waiting, CAROL)
            assert not (await place.call("refund", LARGE)).is_error
        assert shop.calls == [900]
        assert shop.decided == 2

    run(work())


@pytest.mark.parametrize("point", [one for one in POINTS if one != "sdk"])  # there, a client in process has no session
def test_the_end_of_the_session_ends_the_wait(point: str, shop: Shop) -> None:
    async def work() -> None:
        waits = asyncio.Event()
        async with at(point, shop, wait_for_approval=300) as place:
            calling = asyncio.create_task(place.call("refund", LARGE, waits.set))
            await waits.wait()
        await asyncio.gather(calling, return_exceptions=True)
        shop.approvals.approve(shop.waiting, CAROL)
        assert shop.calls == []
        assert shop.decided == 1

    run(work())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize(
    ("outlives", "state", "words"),
    [
        (True, "pending", "after that, call this tool again with exactly the same arguments"),
        (False, "expired", "to request another by role finance, call this tool again with exactly the same arguments"),
    ],
)
def test_a_gateway_that_stops_says_how_to_make_a_waiting_call_again(
    mode: Any, outlives: bool, state: str, words: str, shop: Shop
) -> None:
    gateway = gateway_of(shop, wait_for_approval=300, outlive_process=outlives)
    confirms = gateway.confirms
    assert confirms is not None

    async def work() -> None:
        async with Client(memory_gateway(gateway), mode=mode) as client:
            place = Place(client)
            reply = await place.call("refund", LARGE, confirms.end_waits)
            assert (reply.approval["state"], words in reply.text) == (state, True)
            assert (await place.call("refund", LARGE)).is_error  # no call waits while the gateway stops
            shop.approvals.approve(shop.waiting, CAROL)
            assert not (await place.call("refund", LARGE)).is_error

    run(work())
    assert shop.calls == [900]


@every_point
def test_other_calls_pass_while_one_waits(point: str, shop: Shop) -> None:
    async def work() -> None:
        async with at(point, shop, wait_for_approval=300) as place:

            async def others() -> None:
                assert not (await place.call("refund", {"amount": 1})).is_error
                identical = await place.call("refund", LARGE)
                assert identical.approval["state"] == "pending"  # it does not wait: one call can use the approval
                shop.approvals.approve(shop.waiting, CAROL)

            waits = asyncio.Event()
            calling = asyncio.create_task(place.call("refund", LARGE, waits.set))
            await waits.wait()
            await others()
            assert not (await calling).is_error
        assert shop.calls == [1, 900]

    run(work())


def test_a_reload_that_changes_the_policies_ends_the_wait_with_a_new_decision(shop: Shop) -> None:
    async def work() -> None:
        async with at("gateway", shop, wait_for_approval=300) as place:
            reply = await place.call("refund", LARGE, lambda: shop.load(RULE.replace("500", "600")))
            assert reply.approval["state"] == "pending"
            assert reply.approval["id"] == shop.waiting
        assert shop.calls == []

    run(work())


class RemoteShop:
    """A decision point elsewhere, whose client waits for approvals."""

    def __init__(self, shop: Shop, approves: bool) -> None:
        self.decide_async, self.evaluate_async = shop.decide_async, shop.evaluate_async
        self.report_async, self._shop, self._approves = shop.report_async, shop, approves
        self.tools = shop.tools

    async def await_approval(self, decision: Decision, seconds: float) -> Decision:
        assert seconds == 300
        act = self._shop.approvals.approve if self._approves else self._shop.approvals.deny
        state = act(self._shop.waiting, CAROL).state
        tickets = [one.approval for one in decision.remedies if one.approval is not None]
        return with_ticket_states(decision, {str(one.id): TicketState(state) for one in tickets})


@pytest.mark.parametrize("approves", [True, False])
@pytest.mark.parametrize("point", ["sdk", "fastmcp"])
def test_a_call_waits_for_the_approval_of_a_remote_engine(point: str, approves: bool, shop: Shop) -> None:
    async def work() -> None:
        async with at(point, cast(Shop, RemoteShop(shop, approves)), wait_for_approval=300) as place:
            reply = await place.call("refund", LARGE)
            assert reply.is_error is not approves
            assert approves or reply.approval["state"] == "denied"
        assert shop.calls == ([900] if approves else [])
        assert shop.decided == (2 if approves else 1)

    run(work())


# ── The user is asked ─────────────────────────────────────────────────────────────────────────


@every_point
def test_the_user_approves_in_a_form(point: str, shop: Shop) -> None:
    seen: list[Any] = []

    async def work() -> None:
        async with at(point, shop, yes(seen), elicit="form") as place:
            assert not (await place.call("transfer", LARGE)).is_error
        [params] = seen
        assert isinstance(params, ElicitRequestFormParams)
        assert params.requested_schema["required"] == ["approve"]
        assert params.message == (
            'The agent "bot" needs your approval for TOOL billing/transfer.\n'
            'Rule "own transfers":\n'
            "    transfer of 900\n"
            "What the agent asks for, in its own words:\n"
            "    {\n"
            '      "args": {\n'
            '        "amount": 900\n'
            "      }\n"
            "    }\n"
            "Your approval counts once, for exactly this call, for 15m."
        )
        assert shop.calls == [900]

    run(work())


@every_point
def test_a_form_shows_invisible_characters(point: str, shop: Shop) -> None:
    seen: list[Any] = []

    async def work() -> None:
        async with at(point, shop, yes(seen), elicit="form") as place:
            await place.call("transfer", {"amount": 900, "note": "a\u202eb\u200b\n# c\u3164"})
        assert '"note": "a⟨U+202E⟩b⟨U+200B⟩\\n# c⟨U+3164⟩"' in seen[0].message

    run(work())


@every_point
@pytest.mark.parametrize(
    "user", [says("decline"), says("accept", {"approve": False, "reason": "no"})], ids=["decline", "no"]
)
def test_the_user_denies_in_a_form(point: str, user: Any, shop: Shop) -> None:
    async def work() -> None:
        async with at(point, shop, user, elicit="form") as place:
            assert (await place.call("transfer", LARGE)).approval["state"] == "denied"
            assert (await place.call("transfer", LARGE)).approval["state"] == "denied"  # the user is not asked again
        assert shop.calls == []

    run(work())


@every_point
def test_a_user_who_closes_the_form_has_not_answered(point: str, shop: Shop) -> None:
    async def work() -> None:
        async with at(point, shop, says("cancel"), elicit="form") as place:
            assert (await place.call("transfer", LARGE)).approval["state"] == "pending"
        assert shop.calls == []

    run(work())


@pytest.mark.parametrize("point", ["gateway", "sdk, 2025", "fastmcp, 2025"])
def test_a_user_who_closes_the_form_may_answer_elsewhere_while_the_call_waits(point: str, shop: Shop) -> None:
    async def work() -> None:
        async def user(params: Any) -> ElicitResult:
            asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(elsewhere()))
            return ElicitResult(action="cancel")

        async def elsewhere() -> None:
            shop.approvals.approve(shop.waiting, ALICE)

        async with at(point, shop, user, elicit="form", wait_for_approval=300) as place:
            assert not (await place.call("transfer", LARGE)).is_error
        assert shop.calls == [900]

    run(work())


@every_point
def test_an_answer_is_recorded_with_its_channel(point: str, shop: Shop) -> None:
    async def work() -> None:
        ids: list[str] = []

        async def user(params: Any) -> ElicitResult:
            ids.append(shop.waiting)
            return ElicitResult(action="accept", content={"approve": True, "reason": "rent"})

        async with at(point, shop, user, elicit="form") as place:
            await place.call("transfer", LARGE)
        [vote] = shop.approvals.find(ids[0]).approval.votes
        assert (vote.by, vote.issuer, vote.channel, vote.reason) == ("alice", "acme", "mcp", "rent")

    run(work())


@every_point
def test_each_call_asks_the_user_again(point: str, shop: Shop) -> None:
    seen: list[Any] = []

    async def work() -> None:
        async with at(point, shop, yes(seen), elicit="form") as place:
            for amount in (900, 900, 901):
                assert not (await place.call("transfer", {"amount": amount})).is_error
        assert len(seen) == 3
        assert shop.calls == [900, 900, 901]

    run(work())


@every_point
@pytest.mark.parametrize(
    ("tool", "elicit"), [("refund", "form"), ("transfer", "off"), ("transfer", "url")], ids=["role", "off", "url"]
)
def test_no_form_counts_for_another_person_or_without_the_setting(
    point: str, tool: str, elicit: str, shop: Shop
) -> None:
    async def work() -> None:
        seen: list[Any] = []

        async def user(params: Any) -> ElicitResult:
            seen.append(params)
            return ElicitResult(action="accept", content={"approve": True})

        pages = {"approval_pages": PAGES} if elicit == "url" else {}
        async with at(point, shop, user, elicit=elicit, wait_for_approval=0.05, **pages) as place:
            assert (await place.call(tool, LARGE)).approval["state"] == "pending"
        assert not [one for one in seen if isinstance(one, ElicitRequestFormParams)]
        assert shop.calls == []

    run(work())


@every_point
def test_a_client_that_cannot_ask_its_user_gets_the_confirm(point: str, shop: Shop) -> None:
    async def work() -> None:
        async with at(point, shop, elicit="form") as place:
            assert (await place.call("transfer", LARGE)).approval["state"] == "pending"
        assert shop.calls == []

    run(work())


@every_point
def test_the_user_approves_on_the_page(point: str, shop: Shop) -> None:
    seen: list[Any] = []

    async def work() -> None:
        async def user(params: Any) -> ElicitResult:
            seen.append(params)
            shop.approvals.approve(shop.waiting, ALICE)  # as the console does after the sign-in
            return ElicitResult(action="accept")

        async with at(point, shop, user, elicit="url", approval_pages=PAGES) as place:
            assert not (await place.call("transfer", LARGE)).is_error
        [params] = seen
        assert isinstance(params, ElicitRequestURLParams)
        assert params.url.startswith(f"{PAGES}/approvals/")
        assert shop.calls == [900]

    run(work())


@every_point
@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_a_user_who_opens_no_page_has_not_answered(point: str, action: str, shop: Shop) -> None:
    async def work() -> None:
        async with at(point, shop, says(action), elicit="url", approval_pages=PAGES) as place:
            assert (await place.call("transfer", LARGE)).approval["state"] == "pending"
        assert shop.calls == []

    run(work())


def test_a_call_too_long_for_a_form_is_not_asked_in_one(shop: Shop) -> None:
    seen: list[Any] = []

    async def work() -> None:
        async with at("gateway", shop, yes(seen), elicit="form") as place:
            reply = await place.call("transfer", {"amount": 1, "note": "x" * 9_000})
            assert reply.approval["state"] == "pending"
        assert seen == []

    run(work())


@every_point
def test_an_answer_after_the_approval_expired_does_not_count(point: str, shop: Shop) -> None:
    async def work() -> None:
        async def user(params: Any) -> ElicitResult:
            later(shop, days=2)
            return ElicitResult(action="accept", content={"approve": True})

        async with at(point, shop, user, elicit="form") as place:
            reply = await place.call("transfer", LARGE)
            # In the version of 2026, the answer comes with another call, whose approval is another one.
            assert reply.approval["state"] == ("expired" if point.endswith("2025") else "pending")
        assert shop.calls == []

    run(work())


def test_a_tool_does_not_see_the_answer_to_the_question_about_its_call(shop: Shop) -> None:
    seen: list[Any] = []
    server = sdk_server(shop, elicit="form")
    shop.load('anyone { may TOOL billing/look }\nguard "look" on TOOL billing/look { confirm by user }')

    @server.tool()  # type: ignore[untyped-decorator]
    def look(ctx: Context) -> str:
        seen.append(ctx.input_responses)
        return "done"

    async def user(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"approve": True})

    async def work() -> None:
        async with Client(server, elicitation_callback=user) as client:
            assert not (await client.call_tool("look", {})).is_error
        assert seen == [None]

    run(work())


# ── Over HTTP ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("point", ["gateway", "gateway, fastmcp", "sdk", "sdk, fastmcp", "fastmcp"])
def test_over_http_calls_wait_and_users_are_asked(point: str, shop: Shop) -> None:
    options: dict[str, Any] = {"elicit": "form", "wait_for_approval": 300}
    server, _, other = point.partition(", ")
    app: Any = {
        "gateway": lambda: http_app(gateway_of(shop, **options)),
        "sdk": lambda: sdk_server(shop, **options).streamable_http_app(),
        "fastmcp": lambda: fastmcp_server(shop, **options).http_app(),
    }[server]()

    async def user(*given: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"approve": True})

    async def work(url: str) -> None:
        client: Any = (
            fastmcp.Client(url, elicitation_handler=user)
            if "fastmcp" in (server, other)
            else Client(url, elicitation_callback=user)
        )
        async with client:
            place = Place(client)
            assert not (await place.call("transfer", LARGE)).is_error
            reply = await place.call("refund", LARGE, lambda: shop.approvals.approve(shop.waiting, CAROL))
            assert not reply.is_error
        assert shop.calls == [900, 900]

    with serving(app) as url:
        run(work(f"{url}/mcp"))


# ── The command, over stdio ───────────────────────────────────────────────────────────────────

BANK = """
from mcp.server import MCPServer

server = MCPServer("bank")

@server.tool()
def transfer(amount: int) -> str:
    return f"sent {amount}"

server.run()
"""
BANKING = """
language 1
package banking
issuer local { scopes none }
users unrestricted
agent "bot" { issued by local   acts for any user   may TOOL bank/transfer }
guard "transfers" on TOOL bank/transfer { confirm by user within 5m }
"""


def test_the_command_waits_for_an_answer_in_a_shared_store(tmp_path: Path) -> None:
    (tmp_path / "banking.policy").write_text(BANKING)
    (tmp_path / "bank.py").write_text(BANK)
    store = f"sqlite:///{tmp_path}/state.db"
    words = [
        *forking.command(), "mcp-gateway", str(tmp_path / "banking.policy"), "--server", "bank", "--as", "agent=bot",
        "--as", "issuer=local", "--as", "user=alice", "--store", store, "--wait-for-approval", "60",
        "--upstream", shlex.join(forking.script(tmp_path / "bank.py")),
    ]  # fmt: skip
    command, *arguments = words
    answering = load_engine([tmp_path / "banking.policy"], None, store=store).approvals
    assert answering is not None

    def answer() -> None:
        [found] = answering.list()
        answering.approve(found.approval.id, ProvedPerson("alice", "local"))

    async def work() -> None:
        async with Client(stdio_client(StdioServerParameters(command=command, args=arguments))) as client:
            reply = await Place(client).call("transfer", {"amount": 900}, answer)
            assert (reply.is_error, reply.text) == (False, "sent 900")

    run(work())


def test_the_command_finds_the_pages_of_approvals_in_the_settings_of_the_console() -> None:
    front = GatewayOptions("x", "bank", {}, {}, False, "127.0.0.1", None, 60.0, elicit=ElicitMode.URL)
    assert with_pages(front, PAGES).approval_pages == PAGES
    named = replace(front, approval_pages="https://other.example.com")
    assert with_pages(named, None).approval_pages == "https://other.example.com"
    with pytest.raises(CommandError, match="keep one of them"):
        with_pages(named, PAGES)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--elicit", "url"], "`--elicit url` needs the URL of the pages"),
        (["--approval-pages", "console"], "`console` is not a URL"),
        (["--wait-for-approval", "301"], "less than or equal to 300"),
        (["--elicit", "always"], "always"),
    ],
)
def test_the_command_refuses_options_without_a_meaning(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "banking.policy").write_text(BANKING)
    words = ["mcp-gateway", str(tmp_path / "banking.policy"), "--server", "bank", "--as", "agent=bot"]
    assert main([*words, "--upstream", "http://127.0.0.1:1", *options]) == 2
    assert says in capsys.readouterr().err
