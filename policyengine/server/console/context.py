"""The state of the console of one process, and the request of a person who is signed in."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from time import time
from typing import ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from policyengine.approvals.eligibility import ProvedPerson
from policyengine.engine import Engine
from policyengine.identity.login.open_id_client import OpenIdClient, Person
from policyengine.reload import ReloadableEngine
from policyengine.server.console.cookies import CookieNames, CookieSeal
from policyengine.server.console.links import OneTimeLink
from policyengine.server.console.log_readers import LogReaderPool
from policyengine.server.console.notices import NO_NOTICES, ConsoleNotices, WaitingCounts, read_halt_notices
from policyengine.server.console.options import ConsoleOptions, LoginSettings
from policyengine.server.console.records import ConsoleRecords
from policyengine.server.console.roles import ConsoleRole, RoleRules, unrevoked_roles
from policyengine.server.console.sessions import ConsoleSession, ConsoleSessions
from policyengine.server.console.spent_states import SpentStates
from policyengine.server.console.throttle import AttemptThrottle
from policyengine.server.telemetry.shared_counters import ServerCounters

MAX_THREADS = 8
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class ConsoleContext:
    """Everything that pages use. `base_url` is the URL of the console in browsers; `tally` has the counters of all
    workers.
    """

    options: ConsoleOptions
    reloading: ReloadableEngine
    tally: ServerCounters
    base_url: str
    cookies: CookieNames
    rules: RoleRules
    records: ConsoleRecords
    sessions: ConsoleSessions
    link: OneTimeLink = field(default_factory=OneTimeLink)
    seal: CookieSeal = field(default_factory=CookieSeal)
    throttle: AttemptThrottle = field(default_factory=AttemptThrottle)
    spent: SpentStates = field(default_factory=SpentStates)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(MAX_THREADS, "policyengine-console"))
    reading: LogReaderPool = field(default_factory=LogReaderPool)
    waiting: WaitingCounts = field(default_factory=WaitingCounts)
    _client: tuple[object, OpenIdClient] | None = None

    @property
    def engine(self) -> Engine:
        """The current engine, read once per page because a reload may replace it."""
        return self.reloading.current

    @property
    def login(self) -> LoginSettings | None:
        return self.options.login

    @property
    def client(self) -> OpenIdClient:
        """The client of the issuer as the current policies declare it. Raises ServeError."""
        assert self.login is not None
        engine = self.engine
        issuer = engine.kernel.issuers.get(self.login.issuer)
        if self._client is None or self._client[0] != issuer:
            self._client = issuer, self.options.open_id_client(engine, self.login, self.base_url)
        return self._client[1]

    async def roles(self, person: Person) -> frozenset[ConsoleRole]:
        """Return the current roles of a person: during a session, entities may change and the user may be revoked."""
        return await self.run(self._roles, person)

    def _roles(self, person: Person) -> frozenset[ConsoleRole]:
        engine = self.engine
        roles = self.rules.roles(person, engine.directory)
        if not roles:
            return roles
        marks, now, proved = engine.store.marks, int(time()), self.proved(person)
        if person.issuer is None and proved.issuer is not None:
            answering = unrevoked_roles(Person(person.user, proved.issuer), marks, now)
            return roles if ConsoleRole.APPROVE in answering else roles - {ConsoleRole.APPROVE}
        return roles & unrevoked_roles(person, marks, now)

    def proved(self, person: Person) -> ProvedPerson:
        """Return the person with the issuer that vouches for them, as approvals require it. For a person who signed in
        with a link, this is `link_issuer`; without that setting it is None, and the person may answer no approval.
        """
        return ProvedPerson(person.user, person.issuer or self.options.link_issuer, aliases=person.aliases)

    async def notices(self, person: Person, roles: frozenset[ConsoleRole]) -> ConsoleNotices:
        """Return the notices that each page shows to a person."""
        engine, waiting = self.engine, None
        if ConsoleRole.APPROVE in roles:
            waiting = await self.run(self.waiting.count, engine, self.proved(person))
        return read_halt_notices(engine, waiting)

    async def run(self, work: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
        """Run blocking work in a thread of the console, so that the threads of decisions stay free."""
        return await get_running_loop().run_in_executor(self.threads, partial(work, *args, **given))


@dataclass(frozen=True, slots=True)
class ConsoleVisit:
    """The request of a person who is signed in and has the role of the page. `form` has the fields of a POST request,
    whose token was checked.
    """

    http: Request
    console: ConsoleContext
    session: ConsoleSession
    roles: frozenset[ConsoleRole]
    form: Mapping[str, str] = field(default_factory=dict)
    notices: ConsoleNotices = NO_NOTICES

    async def refresh(self) -> ConsoleVisit:
        """Return the visit with the notices after an act, which may have changed them."""
        self.console.waiting.forget()
        return replace(self, notices=await self.console.notices(self.person, self.roles))

    @property
    def person(self) -> Person:
        return self.session.person


PageHandler = Callable[[ConsoleVisit], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class ConsolePage:
    """A page, or an act of a page: the path, the role that a person needs, and the handler. `title` is its name in the
    menu; a page without a title is not in the menu. Requests for a page in the `background` come from a script, and do
    not keep a session alive. A page is in the menu if it `is_listed` for the current policies, with the number `badge`
    unless that is 0.
    """

    path: str
    handler: PageHandler
    role: ConsoleRole = ConsoleRole.VIEW
    method: str = "GET"
    title: str = ""
    background: bool = False
    is_listed: Callable[[Engine], bool] = lambda engine: True
    badge: Callable[[ConsoleNotices], int | None] = lambda notices: None
