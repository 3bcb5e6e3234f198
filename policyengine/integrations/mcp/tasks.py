"""Tasks of MCP servers: a task belongs to the caller whose call created it, and is decided again as this call.

This holds for the tasks of 2025-11-25 and for the extension `io.modelcontextprotocol/tasks`. Nothing here depends on an
SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple

from policyengine.integrations.enforcement_point import (
    CALLER_MEMBERS,
    Facts,
    PolicyDecisionPoint,
    evaluate,
    report_outcome,
)
from policyengine.integrations.mcp.elicitation import CallerIdentity, caller_identity
from policyengine.runtime.decision import Decision, Outcome

TASK_METHODS = frozenset({"tasks/get", "tasks/result", "tasks/cancel", "tasks/update"})
TASK_LIST = "tasks/list"
TASK_NOTIFICATIONS = frozenset({"notifications/tasks/status", "notifications/tasks"})
UNKNOWN_TASK = "the task does not exist"  # also for the tasks of others
MAX_TASKS = 1_000
MAX_TASKS_OF_CALLER = 100
MAX_TASK_SECONDS = 24 * 3_600.0  # of a task without a time limit
MAX_ARGUMENT_CHARACTERS = 100_000  # of a call whose task is kept
MAX_ID_LENGTH = 512
FINAL_STATUSES = {"completed": 200, "failed": 500, "cancelled": 500}


class TaskKey(NamedTuple):
    """A task of one caller. Servers choose the IDs: two servers may use the same ID."""

    owner: CallerIdentity
    id: str


@dataclass(slots=True, eq=False)
class TaskRecord:
    """A task: the question about its call without the facts about the caller, the decision, and the token of its
    progress notifications. `status` is the outcome of the call as far as it is known."""

    key: TaskKey
    question: Facts
    decision: Decision
    token: object
    began: float
    ends: float
    status: int = 500
    is_finished: bool = False


@dataclass(eq=False)
class TaskTable:
    """The known tasks, at most `most`, and `most_of_caller` of one caller; to make room, the caller with the most tasks
    loses the oldest one. An unknown task is refused.
    """

    most: int = MAX_TASKS
    most_of_caller: int = MAX_TASKS_OF_CALLER
    clock: Callable[[], float] = monotonic
    _by_owner: dict[CallerIdentity, dict[str, TaskRecord]] = field(default_factory=dict)
    _replaced: list[TaskRecord] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(map(len, self._by_owner.values()))

    def add(self, key: TaskKey, question: Facts, decision: Decision, token: object, ttl: object) -> None:
        """Add a task. A task of the same caller with the same ID is finished, because nothing names it any more."""
        own, now = self._by_owner.setdefault(key.owner, {}), self.clock()
        if (known := own.pop(key.id, None)) is not None:
            self._replaced.append(known)
        own[key.id] = TaskRecord(key, question, decision, token, now, now + life_seconds(ttl))

    def find(self, owner: CallerIdentity | None, id: object) -> TaskRecord | None:
        if owner is None or not isinstance(id, str):
            return None
        record = self._by_owner.get(owner, {}).get(id)
        return None if record is None or record.ends <= self.clock() else record

    def knows_token(self, owner: CallerIdentity | None, token: object) -> bool:
        """Return whether a running task of the caller reports its progress with this token."""
        own = {} if owner is None else self._by_owner.get(owner, {})
        now = self.clock()
        return any(one.ends > now and not one.is_finished and same_token(one.token, token) for one in own.values())

    def remove_surplus(self) -> list[TaskRecord]:
        """Remove the tasks that have ended, and those for which there is no room. Return those that did not finish."""
        gone = [*self._ended(), *self._surplus()]
        for record in gone:
            own = self._by_owner[record.key.owner]
            del own[record.key.id]
            if not own:
                del self._by_owner[record.key.owner]
        gone, self._replaced = [*gone, *self._replaced], []
        return [record for record in gone if not record.is_finished]

    def _ended(self) -> Iterator[TaskRecord]:
        now = self.clock()
        for own in self._by_owner.values():
            yield from (record for record in own.values() if record.ends <= now)

    def _surplus(self) -> Iterator[TaskRecord]:
        now = self.clock()
        live = {owner: [one for one in own.values() if one.ends > now] for owner, own in self._by_owner.items()}
        count = sum(map(len, live.values()))
        while live:
            largest = max(live.values(), key=len)
            if len(largest) <= self.most_of_caller and count <= self.most:
                return
            yield largest.pop(0)
            count -= 1


class TaskDesk:
    """Decides what callers may do with tasks."""

    def __init__(self, decides: PolicyDecisionPoint, table: TaskTable) -> None:
        self._decides, self._table = decides, table

    async def register(self, question: Facts, params: Mapping[str, Any], decision: Decision, result: object) -> bool:
        """Keep the task that a call created. Return False if the call created no task, or its caller has no name."""
        task = created_task(result)
        owner = None if task is None else task_owner(question)
        if task is None or owner is None:
            return False
        id, size = task.get("taskId"), len(repr(question.get("args")))
        if not isinstance(id, str) or len(id) > MAX_ID_LENGTH or size > MAX_ARGUMENT_CHARACTERS:
            return False
        call = {name: value for name, value in question.items() if name not in CALLER_MEMBERS}
        ttl = task.get("ttlMs", task.get("ttl"))
        self._table.add(TaskKey(owner, id), call, decision, short_token(params), ttl)
        for record in self._table.remove_surplus():
            await self._report(record, record.status)
        return True

    async def _report(self, record: TaskRecord, status: int, output: object = None) -> None:
        record.is_finished = True
        await report_outcome(self._decides, record.decision, status, None, output if isinstance(output, dict) else None)

    def find(self, facts: Facts, id: object) -> TaskRecord | None:
        return self._table.find(task_owner(facts), id)

    def knows_token(self, facts: Facts | None, token: object) -> bool:
        return facts is not None and self._table.knows_token(task_owner(facts), token)

    async def refusal(self, record: TaskRecord, facts: Facts) -> Decision | None:
        """Return the denial if the call that created the task would be denied now. A rate that the call itself has used
        up, and an approval that it has spent, do not deny."""
        decision = await evaluate(self._decides, {**facts, **record.question})
        return decision if decision.outcome is Outcome.DENY else None

    async def settle(self, record: TaskRecord, method: str, result: object) -> None:
        """Report the outcome of the call once its task has finished, and follow changes of the time limit."""
        if not isinstance(result, Mapping) or record.is_finished:
            return
        if method == "tasks/result":
            failed = result.get("isError") is True
            return await self._report(record, 500 if failed else 200, result.get("structuredContent"))
        if "ttl" in result or "ttlMs" in result:
            record.ends = record.began + life_seconds(result.get("ttlMs", result.get("ttl")))
        inner, status = result.get("result"), FINAL_STATUSES.get(str(result.get("status")))
        if status is None:
            return
        if isinstance(inner, Mapping):  # the extension has no `tasks/result`
            status = 500 if inner.get("isError") is True else status
            return await self._report(record, status, inner.get("structuredContent"))
        record.status = status
        if status != 200:  # otherwise the output follows with `tasks/result`
            await self._report(record, status)

    async def own_tasks(self, listed: list[Any], facts: Facts) -> list[Any]:
        """Return the tasks of a list that belong to the caller, and whose calls would not be denied now."""
        own = []
        for item in listed:
            record = self.find(facts, item.get("taskId")) if isinstance(item, Mapping) else None
            if record is not None and await self.refusal(record, facts) is None:
                own.append(item)
        return own


def life_seconds(ttl: object) -> float:
    """Return the life of a task with this `ttl` in milliseconds, which is limited."""
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 <= ttl < MAX_TASK_SECONDS * 1_000:
        return MAX_TASK_SECONDS
    return ttl / 1_000


def task_owner(facts: Facts) -> CallerIdentity | None:
    """Return the owner of the tasks of a caller; None if its credentials are not verified, or it has no name."""
    found = caller_identity(facts)
    return None if "credentials" in facts or (found.agent is None and found.user is None) else found


def created_task(result: object) -> Mapping[str, Any] | None:
    """Return the task in the result of a call: in the extension, this is the result itself; in 2025-11-25, it is the
    member `task`."""
    if not isinstance(result, Mapping):
        return None
    if result.get("resultType") == "task":
        return result
    task = result.get("task")
    return task if isinstance(task, Mapping) and "taskId" in task and "content" not in result else None


def progress_token(params: Mapping[str, Any] | None) -> object:
    meta = (params or {}).get("_meta")
    return meta.get("progressToken") if isinstance(meta, Mapping) else None


def short_token(params: Mapping[str, Any]) -> object:
    """Return the progress token of a call whose task is kept; None if the token is too long to be kept."""
    token = progress_token(params)
    is_short = isinstance(token, int) or (isinstance(token, str) and len(token) <= MAX_ID_LENGTH)
    return token if is_short else None


def same_token(token: object, other: object) -> bool:
    """Return whether two progress tokens are the same; in JSON, `1` and `true` are not."""
    return token is not None and type(token) is type(other) and token == other


def subscribed_tasks(params: Mapping[str, Any]) -> list[object]:
    """Return the IDs of the tasks whose changes `subscriptions/listen` asks for. A value that is not a list counts as
    one task without an ID."""
    wanted = params.get("notifications")
    named = wanted.get("taskIds") if isinstance(wanted, Mapping) else None
    return list(named) if isinstance(named, list) else [] if named is None else [None]
