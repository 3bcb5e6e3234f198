"""`approvals`: the cost of opening an approval on each store, of answering and using it, and what a page of the console
that shows live traffic costs the decisions of its server.

It starts servers on free ports of this machine, and stops them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import monotonic, perf_counter
from typing import Any, TypeAlias
from urllib.parse import urlencode, urlsplit

from bench.measure import percentile
from bench.report import Section, Target
from bench.serving.servers import POLICYENGINE, free_port, start_process, wait_for_http
from bench.stores import start_postgres, start_redis
from bench.trial import format_number
from policyengine import ApprovalSettings, Engine
from policyengine.approvals.eligibility import ProvedPerson
from policyengine.entities.store import EntityStore
from policyengine.runtime.entities import EntityData
from policyengine.stores.base import Store
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.url import open_store
from policyengine.typesystem import EntityRef

Say = Callable[[str], None]
Times: TypeAlias = dict[str, list[float]]
ROUNDS, CALLS = 10, 100  # a round is short, so that the stores take turns
CARRIERS = ("redis-server", "valkey-server")
WITHOUT, OPENED, KNOWN, ANSWERED, SPENT = STEPS = (
    "a confirm that opens nothing",
    "a confirm that opens an approval",
    "the same request again, while it waits",
    "the answer of a person",
    "the allow that uses the approval",
)
PLAIN, BESIDE = "an allow of policies without a confirm", "an allow beside rules that confirm others"
MAX_OPENING_MS = 1.0
POLICY = """
language 1
package shop
entity user { roles: set<string> }
facts on POST /refund { body.amount: number }
issuer acme { url "https://login.acme.example"   scopes none }
users unrestricted
agent "bot" { issued by acme   acts for any user   may POST /refund, GET /orders }
"""
RULE = """guard "large" on POST /refund {
  confirm by role finance within 15m when body.amount > 500 message "refund of {body.amount}"
}
"""
CAROL = ProvedPerson("carol", "acme")
CALLER = {"agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"}, "credential": {"kind": "jwt"}}
ORDERS: dict[str, Any] = {"request": {"method": "GET", "path": "/orders"}, **CALLER}


def engine(store: Store, rule: str = RULE) -> Engine:
    people = EntityStore([EntityData(EntityRef("user", "carol"), {"roles": ["finance"]})])
    settings = ApprovalSettings(most_per_requester=1_000_000, most_per_approver=1_000_000)
    return Engine.from_text(POLICY + rule, store=store, directory=people, approvals=settings)


def refund(amount: int, *, opens: bool = True) -> dict[str, Any]:
    asked = {"request": {"method": "POST", "path": "/refund"}, **CALLER, "body": {"amount": amount}}
    return {**asked, "options": {"request_approval": True}} if opens else asked


# ── Opening, answering and using ──────────────────────────────────────────────────────────────


def time_round(made: Engine, first: int, calls: int, times: Times) -> None:
    """Let each of the requests from `first` on go all the way from a confirm to an allow, and add the times."""
    desk = made.approvals
    assert desk is not None
    ids, numbers = list[str](), range(first, first + calls)
    time_each(times[WITHOUT], (lambda n=n: made.decide(refund(n, opens=False)) for n in numbers))
    for decision in time_each(times[OPENED], (lambda n=n: made.decide(refund(n)) for n in numbers)):
        ticket = decision.remedies[0].approval
        if ticket.id is None:
            raise RuntimeError(f"no approval was opened: {ticket.refused}")
        ids.append(ticket.id)
    time_each(times[KNOWN], (lambda n=n: made.decide(refund(n)) for n in numbers))
    time_each(times[ANSWERED], (lambda id=id: desk.approve(id, CAROL) for id in ids))
    allowed = time_each(times[SPENT], (lambda n=n: made.decide(refund(n)) for n in numbers))
    if not all(decision.allowed for decision in allowed):
        raise RuntimeError("a request that was approved was not allowed")


def time_each(times: list[float], calls: Iterator[Callable[[], Any]]) -> list[Any]:
    """Make the calls one by one, add the seconds of each, and return the results."""
    results = []
    for call in calls:
        start = perf_counter()
        results.append(call())
        times.append(perf_counter() - start)
    return results


def open_stores(folder: Path, stack: ExitStack, skipped: list[str]) -> Iterator[tuple[str, Store]]:
    """Yield each store whose server is installed, empty, by its name."""
    yield "memory", MemoryStore()
    yield "SQLite", open_store(f"sqlite:///{folder}/state.db")
    postgres = stack.enter_context(start_postgres())
    if postgres is None:
        skipped.append("`postgres` is not installed.")
    else:
        yield "PostgreSQL", open_store(postgres)
    for program in CARRIERS:
        if shutil.which(program) is None:
            skipped.append(f"`{program}` is not installed.")
        else:
            port = stack.enter_context(start_redis(program, folder))
            yield program.split("-")[0].title(), open_store(f"redis://127.0.0.1:{port}")


def time_stores(say: Say, rounds: int, calls: int) -> tuple[dict[str, Times], list[str]]:
    skipped: list[str] = []
    with TemporaryDirectory() as folder, ExitStack() as stack:
        engines = {where: engine(store) for where, store in open_stores(Path(folder), stack, skipped)}
        for made in engines.values():
            stack.callback(made.halting.close)  # before its server stops
        times: dict[str, Times] = {where: {step: [] for step in STEPS} for where in engines}
        for turn in range(rounds + 1):  # the first round warms up
            say(f"approvals: round {turn} of {rounds}")
            for where, made in engines.items():
                found = times[where] if turn else {step: [] for step in STEPS}
                time_round(made, 501 + turn * calls, calls, found)
    return times, skipped


def time_other_allows(rounds: int, calls: int) -> Times:
    """Time an allow that needs no approval, in turns with the same allow of policies that confirm nothing."""
    engines = {PLAIN: engine(MemoryStore(), ""), BESIDE: engine(MemoryStore())}
    times: Times = {name: [] for name in engines}
    for turn in range(rounds + 1):
        for name, made in engines.items():
            found = time_each(times[name] if turn else [], (lambda: made.decide(ORDERS) for _ in range(calls)))  # noqa: B023
            assert all(decision.allowed for decision in found)
    return times


# ── The console ───────────────────────────────────────────────────────────────────────────────

CONSOLE_ROUNDS, CONSOLE_SECONDS = 6, 3.0
LOOK_SECONDS = 2.0  # between two looks of the script of a page
MAX_CONSOLE_RATIO = 1.1
ALONE, SHOWN = "a decision over HTTP", "a decision over HTTP, while a page shows the traffic"


class TrafficPage:
    """A page of the console that shows live traffic: asks for the newest decisions as often as its script does."""

    def __init__(self, url: str, link: str) -> None:
        self._address, self.looks, self._cookies = urlsplit(url).netloc, 0, dict[str, str]()
        parts = urlsplit(link)
        form = self._ask("GET", f"{parts.path}?{parts.query}")
        fields = {name: read_field(form, name) for name in ("csrf", "secret")}
        self._ask("POST", "/sign-in/link", urlencode(fields))

    def _ask(self, method: str, path: str, body: str | None = None) -> str:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        with closing(HTTPConnection(self._address, timeout=30)) as connection:
            connection.request(method, path, body, headers)
            with connection.getresponse() as response:
                text = response.read().decode()
                for cookie in response.headers.get_all("Set-Cookie") or ():
                    name, _, value = cookie.partition(";")[0].partition("=")
                    self._cookies[name] = value
                if response.status not in (200, 303):
                    raise RuntimeError(f"the console answers {response.status}")
        return text

    def look(self) -> int:
        """Return the number of decisions on the page."""
        self.looks += 1
        return len(json.loads(self._ask("GET", "/traffic/rows"))["tables"]["traffic"])

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the page in a block."""
        closed = Event()

        def follow() -> None:
            while not closed.is_set():
                self.look()
                closed.wait(LOOK_SECONDS)

        thread = Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            closed.set()
            thread.join()


def read_field(form: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', form)
    if found is None:
        raise RuntimeError(f"the page of the link has no field `{name}`")
    return found[1]


@contextmanager
def serving_console(folder: Path) -> Iterator[tuple[int, TrafficPage]]:
    """Start `serve` with a log and a console, and yield its port and a page."""
    (folder / "shop.policy").write_text(POLICY + RULE)
    port, console = free_port(), free_port()
    files = ["--log", str(folder / "decisions.jsonl"), "--store", f"sqlite:///{folder}/serve.db"]
    command = [*POLICYENGINE, "serve", str(folder / "shop.policy"), "--port", str(port), *files]
    with start_process([*command, "--console", str(console)], folder / "serve.log") as process:
        wait_for_http(port, "/healthz", process)
        yield port, TrafficPage(f"http://127.0.0.1:{console}", read_link(process.log))


def read_link(output: Path) -> str:
    until = monotonic() + 30
    while monotonic() < until:
        if found := re.search(r"http://\S+/sign-in/link\?secret=\S+", output.read_text()):
            return found[0]
    raise RuntimeError("the server printed no link")


def decide_over_http(port: int, seconds: float, times: list[float]) -> None:
    """Ask for the same decision, one after the other, for some seconds."""
    body, until = json.dumps(ORDERS), monotonic() + seconds
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        while monotonic() < until:
            start = perf_counter()
            connection.request("POST", "/decide", body, {"Content-Type": "application/json"})
            connection.getresponse().read()
            times.append(perf_counter() - start)


def time_console(say: Say, rounds: int, seconds: float) -> Times:
    times: Times = {ALONE: [], SHOWN: []}
    with TemporaryDirectory() as folder, serving_console(Path(folder)) as (port, page):
        decide_over_http(port, seconds, [])
        if not page.look():
            raise RuntimeError("the page shows no decisions")
        for turn in range(rounds):
            say(f"approvals: the console, round {turn + 1} of {rounds}")
            decide_over_http(port, seconds, times[ALONE])
            with page.shown():
                decide_over_http(port, seconds, times[SHOWN])
    return times


# ── The section ───────────────────────────────────────────────────────────────────────────────


def run(
    say: Say, rounds: int = ROUNDS, calls: int = CALLS, seconds: float = CONSOLE_SECONDS, turns: int = CONSOLE_ROUNDS
) -> Section:
    stores, skipped = time_stores(say, rounds, calls)
    others, console = time_other_allows(rounds, 10 * calls), time_console(say, turns, seconds)
    found = [describe_times(step, where, times[step]) for where, times in stores.items() for step in STEPS]
    found += [describe_times(name, "memory", times) for name, times in others.items()]
    found += [describe_times(name, "SQLite", times) for name, times in console.items()]
    return section(found, skipped, f"{rounds} rounds of {calls:,} requests", f"{turns} rounds of {seconds:g} seconds")


def describe_times(what: str, where: str, times: list[float]) -> dict[str, Any]:
    ordered = sorted(times)
    p50, p99 = (1e6 * percentile(ordered, part) for part in (0.5, 0.99))
    return {"what": what, "where": where, "p50_us": p50, "p99_us": p99, "calls": len(ordered)}


def section(found: list[dict[str, Any]], skipped: list[str], rounds: str, turns: str) -> Section:
    p50 = {(one["what"], one["where"]): one["p50_us"] for one in found}
    return Section(
        name="approvals",
        title="An approval from the confirm to the allow, and a decision while the console shows live traffic",
        columns=("what", "store", "p50 in µs", "p99 in µs", "calls"),
        rows=tuple(
            (one["what"], one["where"], *(format_number(one[f"p{part}_us"]) for part in (50, 99)), f"{one['calls']:,}")
            for one in found
        ),
        data=tuple(found),
        targets=tuple(targets(p50)),
        notes=(
            f"{rounds}, the stores in turns; {turns} with and without a page, which asks every {LOOK_SECONDS:g} s.",
            "PostgreSQL waits for its disk at each commit; SQLite and Redis do not.",
            *skipped,
        ),
    )


def targets(p50: Mapping[tuple[str, str], float]) -> Iterator[Target]:
    yield Target("a confirm that opens an approval, SQLite, p50", MAX_OPENING_MS, p50[OPENED, "SQLite"] / 1e3, "ms")
    beside = p50[BESIDE, "memory"] / p50[PLAIN, "memory"]
    yield Target(f"{BESIDE}, relative to {PLAIN}, p50", 1.05, beside)
    shown = p50[SHOWN, "SQLite"] / p50[ALONE, "SQLite"]
    yield Target(f"{SHOWN}, relative to without, p50", MAX_CONSOLE_RATIO, shown)
