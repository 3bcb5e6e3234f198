"""The window in which a report searches groups: the last days, of which the first are dropped if there is too much."""

from policyengine.analysis.behavior_report.group_report import MoveRequests
from policyengine.analysis.behavior_report.groups import MAX_DAYS, GroupWatch
from policyengine.behavior.events import ALLOWED, DENIED, BehaviorEvent, Caller, Tagger
from policyengine.behavior.lockstep.bounds import MAX_CALLER_EVENTS
from policyengine.behavior.state import DAY

CALLERS = [Caller("acme", f"key-{number}") for number in range(4)]
DAY_OFFSETS = [DAY * part // 9 + 7_919 * 1_000 * part**3 % 3_600_000 for part in range(1, 8)]  # irregular


def event(at: int, caller: Caller = CALLERS[0], outcome: int = ALLOWED) -> BehaviorEvent:
    return BehaviorEvent(at, caller, "agents", "GET /a", 0, outcome, False)


def watch(most: int = 1_000_000) -> GroupWatch:
    return GroupWatch(Tagger(b"key"), most)


def move(found: GroupWatch, day: int) -> None:
    """Let all callers move together on a day."""
    for offset in DAY_OFFSETS:
        for place, caller in enumerate(CALLERS):
            found.read(event(day * DAY + offset + 100 * place, caller))


def test_days_that_are_long_before_the_last_are_dropped():
    found = watch()
    for day in (0, 1, MAX_DAYS):
        found.read(event(day * DAY))
    found.read(event(DAY * MAX_DAYS, outcome=DENIED))
    report = found.report()
    assert (report.begin // DAY, report.end // DAY) == (1, MAX_DAYS + 1)
    assert report.requests == MoveRequests(2, 1, 1, 0, 1)


def test_a_pause_that_is_longer_than_the_window_leaves_the_last_day():
    found = watch()
    move(found, 0)
    found.read(event(400 * DAY))
    report = found.report()
    assert (report.begin // DAY, report.requests.compared, report.requests.earlier) == (400, 1, 28)


def test_with_too_many_requests_the_first_days_are_dropped():
    found = watch(most=5)
    for day, count in ((0, 2), (1, 3), (2, 2)):
        for number in range(count):
            found.read(event(day * DAY + number))
    report = found.report()
    assert (report.begin // DAY, report.requests.compared, report.requests.earlier) == (1, 5, 2)


def test_days_with_denied_requests_only_are_dropped_before_requests_are_left_out():
    found = watch(most=5)
    found.read(event(0, outcome=DENIED))
    for number in range(5):
        found.read(event(DAY + number))
    found.read(event(2 * DAY))
    assert found.report().requests == MoveRequests(1, 1, 0, 0, 6)


def test_too_many_requests_of_one_day_are_counted():
    found = watch(most=5)
    for number in range(8):
        found.read(event(number))
    report = found.report()
    assert (report.requests.compared, report.requests.crowded, report.requests.earlier) == (5, 3, 0)


def test_denied_requests_drop_no_day():
    found = watch(most=2)
    found.read(event(0))
    found.read(event(1))
    for number in range(9):
        found.read(event(DAY + number, outcome=DENIED))
    report = found.report()
    assert (report.begin, report.requests.compared, report.requests.denied) == (0, 2, 9)


def test_the_requests_of_a_caller_beyond_its_maximum_are_counted_on_all_days_together():
    found = watch()
    for day in range(2):
        for number in range(MAX_CALLER_EVENTS - 48):
            found.read(event(day * DAY + number))
        found.read(event(day * DAY, CALLERS[1]))
    report = found.report()
    assert report.requests.compared == MAX_CALLER_EVENTS + 2
    assert report.requests.crowded == MAX_CALLER_EVENTS - 96


def test_callers_that_are_ready_before_they_move_are_residents():
    found = watch()
    for caller in CALLERS:
        assert not found.is_ready(caller)
    found.set_ready(CALLERS[0], 0)
    found.set_ready(CALLERS[3], 6 * DAY)
    for day in (3, 4):
        move(found, day)
    [group] = found.report().groups
    assert group.reported == (CALLERS[0],)
    assert group.pooled == tuple(CALLERS[1:])
    assert found.is_ready(CALLERS[3])


def test_the_name_of_a_group_is_the_same_in_every_report():
    names = set()
    for key in (b"one", b"another"):
        found = GroupWatch(Tagger(key))
        for day in (3, 4):
            move(found, day)
        names |= {group.id for group in found.report().groups}
    assert len(names) == 1
