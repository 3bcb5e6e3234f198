"""Enforces the pins of tools at the gateway and in the middlewares: only tools whose listed definition was reviewed are
shown and called. Nothing here depends on an SDK.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, TypeAlias

import anyio

from policyengine.integrations.enforcement_point import make_denial
from policyengine.integrations.mcp.notifications import TOOLS_CHANGED
from policyengine.integrations.mcp.unreviewed_tools import UnreviewedTools
from policyengine.log_throttle import LogThrottle
from policyengine.runtime.decision import Decision, Gate
from policyengine.runtime.format_values import format_value
from policyengine.tool_pins.definitions import MAX_LISTED_TOOLS
from policyengine.tool_pins.listed_tools import ListedTool, PinState, ToolEntry, read_listing, unlisted_tool
from policyengine.tool_pins.pin_file import PinFile, PinFileError, PinSet

Result: TypeAlias = Mapping[str, Any]
FetchPage: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[object]]
CLIENT_META = tuple(
    f"io.modelcontextprotocol/{name}" for name in ("protocolVersion", "clientInfo", "clientCapabilities")
)
MAX_PAGES = 200
MAX_REPORTS = 200  # changes to each state that are reported in a minute
MAX_NAME_LENGTH = 512  # characters of a name in a report
MAX_REPORTED = 1_000  # reported changes that the process remembers
LISTING_SECONDS = 30.0  # maximum seconds of a listing with all its pages
REFRESH_SECONDS = 60.0  # seconds after which a call lists the tools again
RETRY_SECONDS = 5.0  # seconds for which the calls of a caller whose tool was denied do not list the tools again
MAX_DENIED_CALLERS = 1_000
UNREADABLE = "the pins of tools cannot be read; the operator's log has the reason"
_LOG = logging.getLogger("policyengine")


class ListingError(Exception):
    """The error for a list of tools that is malformed, too long or not complete in time."""


@dataclass(frozen=True, slots=True)
class PinOptions:
    """How often a session lists the tools for itself, and how long that may take, in seconds. `retry` is how long a
    denied caller waits until its calls list the tools again.
    """

    refresh: float = REFRESH_SECONDS
    retry: float = RETRY_SECONDS
    limit: float = LISTING_SECONDS
    clock: Callable[[], float] = monotonic


class ToolPins:
    """The pins of one server, for all sessions of a process. Each state of a tool is reported once. Threads may share
    it."""

    def __init__(
        self,
        file: PinFile | Path | str,
        unreviewed: UnreviewedTools | str = UnreviewedTools.DENY,
        options: PinOptions | None = None,
    ) -> None:
        self.file = file if isinstance(file, PinFile) else PinFile(file)
        self.unreviewed = UnreviewedTools(unreviewed)
        self.options = options or PinOptions()
        self._reported: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._lock, self._throttle, self._reports = Lock(), LogThrottle(), LogThrottle(MAX_REPORTS)

    @classmethod
    def of(cls, pins: ToolPins | Path | str | None) -> ToolPins | None:
        return pins if pins is None or isinstance(pins, ToolPins) else cls(pins)

    def read(self) -> PinSet:
        """Return the pins in the file as it is now. Raises PinFileError, which is logged."""
        try:
            return self.file.read()
        except PinFileError as error:
            text = f"every tool is denied: {error.message}"
            self._throttle.tell(logging.ERROR, "pins_unreadable", text, **{"event": "pins_unreadable"})
            raise

    def admits(self, tool: ListedTool) -> bool:
        return tool.is_reviewed or self.unreviewed is UnreviewedTools.DECIDE

    def report(self, tool: ListedTool, server: str, decides: object) -> None:
        """Log a tool that is not reviewed: each of its states once. A server can change its tools without end, so a
        minute has at most MAX_REPORTS of each state; the others are reported when they are listed again later."""
        if tool.is_reviewed or not self._is_first(tool, server):
            return
        done = "is hidden and denied" if self.unreviewed is UnreviewedTools.DENY else "is decided by the policies"
        text = (
            f"the tool {format_value(tool.name[:MAX_NAME_LENGTH])} of server {format_value(server)} {done}: {tool.why}"
        )
        self._throttle.tell(logging.WARNING, "tool_changed", text, **{"event": "tool_changed"})
        recorder = getattr(decides, "recorder", None)
        if recorder is not None:
            recorder.write_system(
                "tool_changed", server=server, tool=tool.name[:MAX_NAME_LENGTH], state=str(tool.state), hash=tool.hash,
                pinned=tool.pinned, why=tool.why,
            )  # fmt: skip

    def _is_first(self, tool: ListedTool, server: str) -> bool:
        key = server, hash(tool.name), tool.state, tool.hash
        with self._lock:
            is_first = key not in self._reported
            if is_first and self._reports.admit(str(tool.state)) is None:
                return False
            self._reported[key] = None
            self._reported.move_to_end(key)
            if len(self._reported) > MAX_REPORTED:
                self._reported.popitem(last=False)
        return is_first


class PinnedSession:
    """The tools that a server lists in one session. Before a call, the session lists the tools for itself: at first,
    after the server said that they changed, and at intervals. A list of the client is read completely as well, so that
    the client gets only definitions that were compared with the pins."""

    def __init__(self, pins: ToolPins, server: str, decides: object) -> None:
        self._pins, self._server, self._decides = pins, server, decides
        self._tools: dict[str, ToolEntry] = {}
        self._listed: float | None = None
        self._listings = 0  # how often the session has listed the tools
        self._changes = 0  # how often the server said that its tools changed
        self._denied: OrderedDict[str, float] = OrderedDict()  # when a listing for a caller did not admit its tool
        self._lock = anyio.Lock()

    def notice(self, method: str) -> None:
        """Let the next call list the tools again, if the server says that they changed."""
        if method == TOOLS_CHANGED:
            self._changes += 1
            self._listed = None
            self._denied.clear()

    async def list(self, fetch: FetchPage, params: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[ListedTool]]:
        """Return the tools of all pages that may be shown in one page, and the same tools compared with their pins.
        Raises ListingError, PinFileError, and the errors of `fetch`."""
        self._pins.read()  # a pin file that cannot be read needs no list
        result, items = await self._fetch_all(fetch, params)
        pins = self._pins.read()
        shown: dict[int, ListedTool] = {}
        for at, listing in enumerate(self._remember(items)):
            if listing is not None:
                tool = listing.compare(self._server, pins)
                self._pins.report(tool, self._server, self._decides)
                shown |= {at: tool} if self._pins.admits(tool) else {}
        return {**result, "tools": [items[at] for at in shown]}, list(shown.values())

    async def find(
        self,
        name: object,
        fetch: FetchPage,
        params: Mapping[str, Any],
        hold: Callable[[], AbstractContextManager[None]],
        caller: str = "",
    ) -> ListedTool | Decision:
        """Return the tool as the server lists it, or the denial of its call. While the session lists the tools, `hold`
        lets the client send further messages. `caller` names the caller, because each caller can cause only few
        listings."""
        if not isinstance(name, str):
            return make_denial("the tool has no name", Gate.DEFAULT)
        try:
            if self._is_fresh and (self._pins.admits(tool := self._compare(name)) or self._was_denied(caller)):
                return self._check(tool)
            # The server may list other tools to this caller, or may have been corrected.
            await self._list_again(fetch, params, hold)
            found = self._check(self._compare(name))
            if not isinstance(found, ListedTool):
                self._remember_denied(caller)
            return found
        except PinFileError:
            return make_denial(UNREADABLE)
        except ListingError as error:
            return make_denial(f"the tools of the server cannot be compared with their pins: {error}")

    def find_listed(self, name: str) -> ListedTool | None:
        """Return the tool if it may be called, as far as is known without listing the tools again; None otherwise."""
        try:
            if not self._is_fresh or not self._pins.admits(tool := self._compare(name)):
                return None
        except PinFileError:
            return None
        self._pins.report(tool, self._server, self._decides)
        return tool

    def _was_denied(self, caller: str) -> bool:
        """Return whether the tools were listed for a call of this caller a moment ago, and its tool was still
        denied."""
        denied, options = self._denied.get(caller), self._pins.options
        return denied is not None and options.clock() - denied < options.retry

    def _remember_denied(self, caller: str) -> None:
        self._denied[caller] = self._pins.options.clock()
        self._denied.move_to_end(caller)
        if len(self._denied) > MAX_DENIED_CALLERS:
            self._denied.popitem(last=False)

    async def _list_again(
        self, fetch: FetchPage, params: Mapping[str, Any], hold: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """List the tools, unless another call lists them meanwhile. Raises ListingError, and the errors of `fetch`."""
        before = self._listings
        with hold():
            async with self._lock:
                if before == self._listings:
                    _, items = await self._fetch_all(fetch, params)
                    self._remember(items)

    def _compare(self, name: str) -> ListedTool:
        """Return the tool as the session knows it, compared with the pins. Raises PinFileError."""
        pins, listing = self._pins.read(), self._tools.get(name)
        return unlisted_tool(name, self._server, pins) if listing is None else listing.compare(self._server, pins)

    def _check(self, tool: ListedTool) -> ListedTool | Decision:
        """Return the tool, or the denial of its call if it must be reviewed first."""
        self._pins.report(tool, self._server, self._decides)
        if self._pins.admits(tool):
            return tool
        if tool.state is PinState.UNLISTED:  # there is nothing to review
            return make_denial(f"the tool is not known: {tool.why}", Gate.DEFAULT)
        return make_denial(f"{describe_refusal(tool)}: an operator runs `policyengine mcp review`", Gate.DEFAULT)

    @property
    def _is_fresh(self) -> bool:
        options = self._pins.options
        return self._listed is not None and options.clock() - self._listed < options.refresh

    def _remember(self, items: Sequence[object]) -> Sequence[ToolEntry | None]:
        listings = read_listing(items)
        self._tools = {one.name: one for one in listings if one is not None}
        self._listings += 1
        return listings

    async def _fetch_all(self, fetch: FetchPage, params: Mapping[str, Any]) -> tuple[Result, Sequence[object]]:
        """Return the first page and the items of all pages. Raises ListingError."""
        changes, began = self._changes, self._pins.options.clock()
        first: Result | None = None
        items: list[object] = []
        with anyio.move_on_after(self._pins.options.limit):
            for _ in range(MAX_PAGES):
                page = read_page(await fetch(params))
                first = page if first is None else first
                items += page["tools"]
                if len(items) > MAX_LISTED_TOOLS:
                    raise ListingError(f"the server lists more than {MAX_LISTED_TOOLS:,} tools")
                if not (cursor := page.get("nextCursor")):
                    self._listed = began if changes == self._changes else None
                    return {name: value for name, value in first.items() if name != "nextCursor"}, items
                params = {**params, "cursor": cursor}
            raise ListingError(f"the list of the server has more than {MAX_PAGES} pages")
        raise ListingError(f"the server did not list its tools within {self._pins.options.limit:g} s")


def listing_params(params: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the parameters of a listing that a session makes on behalf of a request: only the members that describe
    the client."""
    meta = (params or {}).get("_meta")
    client = {name: meta[name] for name in CLIENT_META if name in meta} if isinstance(meta, Mapping) else {}
    return {"_meta": client} if client else {}


def read_page(page: object) -> Result:
    """Return a page of a list of tools. Raises ListingError."""
    if not isinstance(page, Mapping) or not isinstance(page.get("tools"), list):
        raise ListingError("the server's list is malformed")
    return page


def describe_refusal(tool: ListedTool) -> str:
    """Return why a listed tool that is not reviewed is denied."""
    if tool.state in (PinState.NEW, PinState.SHADOWING):
        return f"the tool {tool.why.removeprefix('it ')}"
    return f"the tool must be reviewed first, because {tool.why}"


def with_tool_facts(question: dict[str, object], tool: ListedTool | None) -> dict[str, object]:
    """Return the question with the facts about the tool's definition, if they are known."""
    endpoint = question.get("tool")
    if tool is None or not isinstance(endpoint, Mapping):
        return question
    return {**question, "tool": {**endpoint, **tool.facts}}
