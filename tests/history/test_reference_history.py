"""History in conditions, by the specification: given what happened before, what is decided."""

from __future__ import annotations

from decimal import Decimal

import pytest

from policyengine.clock import epoch_microseconds
from tests.history.plainly import Trace, user
from tests.spec.deciding import NOW, bot, codes, kernel, unknown, verdict

SHUT = 'deny by "g"'


def guard(condition: str, place: str = "POST /pay") -> str:
    return f'guard "g" on {place} {{ {condition} }}'


# ── `after` and `no` ──────────────────────────────────────────────────────────────────────────


def test_after_allows_once_the_event_happened() -> None:
    trace = Trace.of(guard("require after POST /review within 1h"))
    assert trace.says("POST /pay") == SHUT
    trace.ask("POST /review")
    assert trace.says("POST /pay") == "allow"


def test_no_denies_once_the_event_happened() -> None:
    trace = Trace.of(guard("require no TOOL secrets/read within 1h"))
    assert trace.says("POST /pay") == "allow"
    trace.ask("TOOL secrets/read")
    assert trace.says("POST /pay") == SHUT


@pytest.mark.parametrize(("later", "said"), [(3_599.999999, "allow"), (3_600, SHUT), (3_600.000001, SHUT)])
def test_a_window_is_half_open(later: float, said: str) -> None:
    trace = Trace.of(guard("require after POST /review within 1h"))
    trace.ask("POST /review")
    assert trace.after(seconds=later).says("POST /pay") == said


def test_only_allowed_requests_enter_history() -> None:
    trace = Trace.of(
        guard("require after POST /review within 1h"), 'guard "shut" on POST /review { deny when body.x == 1 }',
        "facts on POST /review { body.x: int }",
    )  # fmt: skip
    trace.ask("POST /review", body={"x": 1})
    assert trace.says("POST /pay") == SHUT
    trace.ask("POST /review", body={"x": 2})
    assert trace.says("POST /pay") == "allow"


def test_denied_requests_are_counted_separately() -> None:
    trace = Trace.of(
        guard("deny when count of (denied TOOL *) within 10m > 1"), 'guard "no tools" on TOOL secrets/* { deny }'
    )
    for said in ("allow", "allow", SHUT):
        assert trace.says("POST /pay") == said
        trace.ask("TOOL secrets/read")
        trace.ask("TOOL mail/send")


def test_a_request_denied_at_the_identity_gate_is_not_recorded() -> None:
    trace = Trace.of(guard("deny when after (denied TOOL *) within 10m"), 'guard "no tools" on TOOL * { deny }')
    trace.ask("TOOL secrets/read", bot(issuer="evil"))
    assert trace.says("POST /pay") == "allow"
    assert trace.history.events == []


def test_the_request_itself_is_not_counted() -> None:
    trace = Trace.of(guard("require count of POST /pay within 1h < 2"))
    assert [trace.says("POST /pay") for _ in range(3)] == ["allow", "allow", SHUT]


# ── Whose history ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("who", "said"),
    [
        (bot(), "allow"), (bot(user="bob"), SHUT), (bot("other"), SHUT), (bot(user=None), "deny by identity"),
        (user("alice"), SHUT),
    ],
)  # fmt: skip
def test_the_default_history_key_is_agent_and_user(who: dict[str, object], said: str) -> None:
    trace = Trace.of(guard("require after POST /review within 1h"))
    trace.ask("POST /review", bot())
    assert trace.says("POST /pay", who) == said


def test_a_user_without_an_agent_has_a_history() -> None:
    trace = Trace.of(guard("require after POST /review within 1h"))
    trace.ask("POST /review", user("alice"))
    assert [trace.says("POST /pay", user(name)) for name in ("alice", "bob")] == ["allow", SHUT]


def test_per_changes_the_history_key() -> None:
    trace = Trace.of(guard("require after POST /review within 1h per (agent.id)"))
    trace.ask("POST /review", bot(user="bob"))
    assert [trace.says("POST /pay", who) for who in (bot(), bot("other"))] == ["allow", SHUT]


def test_an_unknown_history_key_makes_the_condition_unknown_and_is_named() -> None:
    trace = Trace.of(guard("require no POST /review within 1h per (body.case)"), "facts on /** { body.case: string }")
    decision = trace.ask("POST /pay", body={})
    assert not decision.allowed
    assert unknown(decision) == {"body.case"}


def test_the_history_of_an_anonymous_caller_is_unknown() -> None:
    trace = Trace.of("anyone { may ANY /open/** }", guard("require no POST /open/a within 1h", "POST /open/b"))
    decision = trace.ask("POST /open/b", {})
    assert not decision.allowed
    assert unknown(decision) == {"agent.id"}


@pytest.mark.parametrize(("reviewer", "said"), [("bob", "allow"), ("alice", SHUT)])
def test_by_another_user_matches_only_a_different_user(reviewer: str, said: str) -> None:
    trace = Trace.of(guard("require after (POST /review by another user) within 1h"))
    trace.ask("POST /review", user(reviewer))
    assert trace.says("POST /pay", bot(user="alice")) == said


def test_by_another_user_does_not_match_a_request_without_a_user() -> None:
    trace = Trace.of(
        'agent "alone" { issued by acme  acts alone  may ANY /** }',
        guard("require after (POST /review by another user) within 1h"),
    )
    assert trace.says("POST /review", bot("alone", user=None)) == "allow"
    assert trace.says("POST /pay") == SHUT


# ── `where` ───────────────────────────────────────────────────────────────────────────────────

REVIEW = "require after (POST /v1/invoices/{id}/review by another user where past.params.id == params.id) within 1h"


@pytest.mark.parametrize(("number", "said"), [("42", "allow"), ("43", SHUT)])
def test_past_facts_are_compared_with_facts_of_the_request(number: str, said: str) -> None:
    trace = Trace.of(guard(REVIEW, "POST /v1/invoices/{id}/pay"))
    trace.ask("POST /v1/invoices/42/review", user("bob"))
    assert trace.says(f"POST /v1/invoices/{number}/pay") == said


def test_a_past_fact_that_was_unknown_is_unknown() -> None:
    trace = Trace.of(
        guard("require after (POST /review where past.body.ok) within 1h"), "facts on POST /review { body.ok: bool }"
    )
    trace.ask("POST /review", body={"ok": "yes"})
    decision = trace.ask("POST /pay")
    assert not decision.allowed
    assert unknown(decision) == {"past.body.ok"}


def test_an_uncertain_event_does_not_hide_a_certain_one() -> None:
    trace = Trace.of(
        guard("require after (POST /review where past.body.ok) within 1h"), "facts on POST /review { body.ok: bool }"
    )
    for ok in ("yes", True, False):
        trace.ask("POST /review", body={"ok": ok})
    assert trace.says("POST /pay") == "allow"


def test_the_absence_of_a_past_fact_can_be_checked() -> None:
    trace = Trace.of(
        guard("require no (POST /review where past.body.note is absent) within 1h"),
        "facts on POST /review { body.note: string? }",
    )
    trace.ask("POST /review", body={"note": "fine"})
    assert trace.says("POST /pay") == "allow"
    trace.ask("POST /review", body={})
    assert trace.says("POST /pay") == SHUT


def test_a_past_attribute_keeps_its_earlier_value() -> None:
    trace = Trace.of(guard('require after (POST /review where past.user.roles has "clerk") within 1h'))
    trace.rows = {"user alice": {"roles": ["clerk"]}}
    trace.ask("POST /review")
    trace.rows = {"user alice": {"roles": []}}
    assert trace.says("POST /pay") == "allow"


def test_a_long_past_fact_is_not_stored_and_unknown() -> None:
    trace = Trace.of(
        guard("require after (POST /review where past.body.note == body.note) within 1h"),
        "facts on POST /review, POST /pay { body.note: string }",
    )
    for length, said in ((100, "allow"), (1_000, SHUT)):
        trace.ask("POST /review", body={"note": "x" * length})
        assert trace.says("POST /pay", body={"note": "x" * length}) == said


# ── Outcomes ──────────────────────────────────────────────────────────────────────────────────


def test_a_status_is_unknown_until_it_is_reported() -> None:
    trace = Trace.of(guard("require after (POST /review where past.status < 400) within 1h"))
    review = trace.ask("POST /review")
    waiting = trace.ask("POST /pay")
    assert (waiting.allowed, unknown(waiting)) == (False, {"past.status"})
    trace.report(review, 200)
    assert trace.says("POST /pay") == "allow"


@pytest.mark.parametrize(("status", "said"), [(201, "allow"), (399, "allow"), (400, SHUT), (503, SHUT)])
def test_past_status_is_the_reported_status(status: int, said: str) -> None:
    trace = Trace.of(guard("require after (POST /review where past.status < 400) within 1h"))
    trace.report(trace.ask("POST /review"), status)
    assert trace.says("POST /pay") == said


@pytest.mark.parametrize(
    ("output", "said"),
    [({"state": "good"}, "allow"), ({"state": "bad"}, SHUT), ({"state": 7}, SHUT), ({}, SHUT), ({"state": None}, SHUT)],
)
def test_a_past_output_of_another_type_does_not_match(output: dict[str, object], said: str) -> None:
    trace = Trace.of(guard('require after (POST /review where past.output.state == "good") within 1h'))
    trace.report(trace.ask("POST /review"), 200, **output)
    assert trace.says("POST /pay") == said


def test_output_numbers_are_summed() -> None:
    trace = Trace.of(guard("require sum past.output.cost of POST /run within 1h < 10"))
    for cost, said in ((4, "allow"), (Decimal("5.5"), "allow"), (Decimal("0.5"), SHUT)):
        trace.report(trace.ask("POST /run"), 200, cost=cost)
        assert trace.says("POST /pay") == said


@pytest.mark.parametrize(
    ("condition", "unanswered", "answered", "failed"),
    [
        ("require no (POST /run where past.status is absent) within 1h", SHUT, "allow", "allow"),
        ("deny when after (POST /run where past.status is absent) within 1h", SHUT, "allow", "allow"),
        ("require after (POST /run where past.status is present) within 1h", SHUT, "allow", "allow"),
        ("require count of (POST /run where past.status is absent) within 1h < 1", SHUT, "allow", "allow"),
        ("require no (POST /run where past.output.cost is absent) within 1h", SHUT, "allow", SHUT),
        ("require after (POST /run where (past.status else 500) < 400) within 1h", SHUT, "allow", SHUT),
        ("require no (POST /run where (past.output.cost else 9) > 5) within 1h", SHUT, "allow", SHUT),
        ("require no (POST /run where past.status is absent or past.status >= 500) within 1h", SHUT, "allow", SHUT),
        ("require sum (past.output.cost else 9) of POST /run within 1h < 5", SHUT, "allow", SHUT),
        ("require sum (past.output.cost else 0) of POST /run within 1h < 5", "allow", "allow", "allow"),
        ("require sum (past.output.cost else past.body.most) of POST /run within 1h < 8", SHUT, "allow", SHUT),
        ("require sum (past.status else 0) of POST /run within 1h < 300", "allow", "allow", SHUT),
        ("require distinct (past.status else 0) of POST /run within 1h == 1", "allow", "allow", "allow"),
    ],
)  # fmt: skip
def test_an_unanswered_request_is_settled(condition: str, unanswered: str, answered: str, failed: str) -> None:
    facts = "facts on POST /run { body.most: number? }"
    asked = {"body": {"most": 8}}
    for status, output, said in ((None, {}, unanswered), (200, {"cost": 4}, answered), (500, {}, failed)):
        trace = Trace.of(guard(condition), facts)
        run = trace.ask("POST /run", **asked)
        if status is not None:
            trace.report(run, status, **output)
        decision = trace.ask("POST /pay")
        assert (verdict(decision), decision.unknown) == (said, ())


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"x": 0}, "allow"), ({"x": False}, "allow"), ({"x": ""}, "allow"), ({"x": []}, "allow"), ({"x": {}}, "allow"),
        ({"x": [{"a": None}]}, "allow"), ({"x": 1.5}, "allow"), ({"x": None}, SHUT), ({}, SHUT), ({"y": 1}, SHUT),
        ({"x": "a" * 300}, "allow"), ({"x": {"a": "b" * 300}}, "allow"),
    ],
)  # fmt: skip
def test_an_output_of_every_type_is_present(output: dict[str, object], said: str) -> None:
    trace = Trace.of(guard("require after (POST /run where past.output.x is present) within 1h"))
    trace.report(trace.ask("POST /run"), 200, **output)
    decision = trace.ask("POST /pay")
    assert (verdict(decision), decision.unknown) == (said, ())


def test_an_empty_output_id_is_absent() -> None:
    trace = Trace.of(guard("require no (POST /run where past.output.id is absent) within 1h"))
    trace.report(trace.ask("POST /run"), 200, id="")
    assert trace.says("POST /pay") == SHUT


def test_a_report_without_a_status_leaves_the_status_absent() -> None:
    trace = Trace.of(guard("require no (POST /run where past.status is absent and past.output.x is present) within 1h"))
    run = trace.ask("POST /run")
    assert trace.says("POST /pay") == "allow"
    trace.report(run, None, x=1)
    assert trace.says("POST /pay") == SHUT


def test_a_default_does_not_replace_an_output_of_another_type() -> None:
    trace = Trace.of(guard("require sum (past.output.cost else 0) of POST /run within 1h < 5"))
    trace.report(trace.ask("POST /run"), 200, cost="4")
    decision = trace.ask("POST /pay")
    assert (verdict(decision), unknown(decision)) == (SHUT, {"past.output.cost"})


def test_without_a_default_one_lost_report_makes_a_sum_unknown() -> None:
    trace = Trace.of(guard("require sum past.output.cost of POST /run within 1h < 5"))
    trace.ask("POST /run")
    decision = trace.ask("POST /pay")
    assert (verdict(decision), unknown(decision)) == (SHUT, {"past.output.cost"})
    assert trace.after(hours=1).says("POST /pay") == "allow"


def test_statuses_are_summed_and_counted() -> None:
    trace = Trace.of(guard("require sum past.status of POST /run within 1h <= 404"))
    for status, said in ((200, "allow"), (204, "allow"), (100, SHUT)):
        trace.report(trace.ask("POST /run"), status)
        assert trace.says("POST /pay") == said


# ── Counts ────────────────────────────────────────────────────────────────────────────────────

PAY = "facts on POST /pay { body.amount: number   body.to: string }"


def test_amounts_are_summed_exactly_over_the_window() -> None:
    trace = Trace.of(PAY, guard("require sum past.body.amount of POST /pay within 24h + body.amount <= 5_000"))
    said = [trace.says("POST /pay", body={"amount": amount, "to": "x"}) for amount in (4_000, 999.99, 0.02, 0.01, 0.01)]
    assert said == ["allow", "allow", SHUT, "allow", SHUT]
    assert trace.after(hours=24).says("POST /pay", body={"amount": 5_000, "to": "x"}) == "allow"


def test_distinct_counts_each_value_once() -> None:
    trace = Trace.of(PAY, guard("require distinct past.body.to of POST /pay within 1h < 2"))
    said = [trace.says("POST /pay", body={"amount": 1, "to": to}) for to in ("a", "a", "b", "a")]
    assert said == ["allow", "allow", "allow", SHUT]


def test_a_count_is_unknown_while_an_event_is_uncertain() -> None:
    trace = Trace.of(guard("require count of (POST /run where past.status < 400) within 1h < 5"))
    run = trace.ask("POST /run")
    assert trace.says("POST /pay") == SHUT
    trace.report(run, 500)
    assert trace.says("POST /pay") == "allow"


def test_an_uncounted_event_may_have_unknown_facts() -> None:
    trace = Trace.of(
        "facts on POST /run { body.n: number  body.real: bool }",
        guard("require sum past.body.n of (POST /run where past.body.real) within 1h < 5"),
    )
    trace.ask("POST /run", body={"n": "many", "real": False})
    assert trace.says("POST /pay") == "allow"
    trace.ask("POST /run", body={"n": "many", "real": True})
    assert trace.says("POST /pay") == SHUT


# ── `since` ───────────────────────────────────────────────────────────────────────────────────

SINCE = "require no TOOL secrets/read within 1h since POST /review"


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ("", "allow"), ("read", SHUT), ("review", "allow"), ("read review", "allow"), ("review read", SHUT),
        ("read review read", SHUT), ("read read review review", "allow"),
    ],
)  # fmt: skip
def test_since_ignores_events_before_the_reset(events: str, said: str) -> None:
    trace = Trace.of(guard(SINCE))
    for event in events.split():
        trace.after(minutes=1).ask("TOOL secrets/read" if event == "read" else "POST /review")
    assert trace.says("POST /pay") == said


def test_events_at_the_same_time_are_ordered_by_arrival() -> None:
    trace = Trace.of(guard(SINCE))
    trace.ask("POST /review")
    trace.ask("TOOL secrets/read")
    assert trace.says("POST /pay") == SHUT
    trace.ask("POST /review")
    assert trace.says("POST /pay") == "allow"


def test_since_uses_the_same_history_key() -> None:
    trace = Trace.of(guard(SINCE))
    trace.ask("TOOL secrets/read")
    trace.ask("POST /review", bot(user="bob"))
    assert trace.says("POST /pay") == SHUT


def test_an_uncertain_reset_makes_the_condition_unknown() -> None:
    trace = Trace.of(guard("require no TOOL secrets/read within 1h since (POST /review where past.status < 400)"))
    trace.ask("TOOL secrets/read")
    review = trace.ask("POST /review")
    assert not trace.ask("POST /pay").allowed
    trace.report(review, 204)
    assert trace.says("POST /pay") == "allow"


def test_a_count_restarts_at_the_since_event() -> None:
    trace = Trace.of(guard("require count of POST /run within 1h since POST /review < 2"))
    said = []
    for where in ("run", "run", "review", "run", "run"):
        trace.ask(f"POST /{where}")
        said.append(trace.says("POST /pay"))
    assert said == ["allow", SHUT, "allow", "allow", SHUT]


# ── A past that was not recorded ──────────────────────────────────────────────────────────────

BEGUN = epoch_microseconds(NOW) - 1


@pytest.mark.parametrize(
    ("condition", "happened", "said"),
    [
        ("require after POST /review within 1h", False, SHUT), ("require after POST /review within 1h", True, "allow"),
        ("require no POST /review within 1h", False, SHUT), ("deny when after POST /review within 1h", True, SHUT),
        ("deny when after POST /review within 1h", False, SHUT),
        ("require count of POST /review within 1h > 0", True, SHUT),
    ],
)  # fmt: skip
def test_a_window_before_the_start_of_history_is_unknown_unless_a_match_exists(
    condition: str, happened: bool, said: str
) -> None:
    trace = Trace.of(guard(condition), complete_after=BEGUN)
    if happened:
        trace.ask("POST /review")
    assert trace.after(minutes=59).says("POST /pay") == said


def test_a_window_that_begins_with_history_is_known() -> None:
    trace = Trace.of(guard("require no POST /review within 1h"), complete_after=BEGUN)
    assert trace.after(minutes=59, seconds=59).says("POST /pay") == SHUT
    assert trace.after(seconds=1).says("POST /pay") == "allow"


def test_the_denial_reason_names_an_unknown_past() -> None:
    trace = Trace.of(guard("require no POST /review within 1h"), complete_after=BEGUN)
    (reason,) = trace.ask("POST /pay").reasons
    assert "`no POST /review within 1h` is unknown: the recorded history does not reach back that far" in reason.message


def test_a_question_about_an_earlier_time_ignores_later_events() -> None:
    trace = Trace.of(guard("require no POST /review within 1h"))
    early = trace.now.isoformat()
    trace.after(minutes=5).ask("POST /review")
    assert trace.says("POST /pay") == SHUT
    assert trace.says("POST /pay", options={"at": early, "consume": False}) == "allow"


# ── Elsewhere than in guards ──────────────────────────────────────────────────────────────────


def test_a_grant_can_depend_on_history() -> None:
    trace = Trace(kernel(
        'issuer acme { scopes none }\nuser any { may GET /** }\n'
        'agent "bot" { issued by acme  acts for any user  may GET /a  may GET /b when after GET /a within 5m }'
    ))  # fmt: skip
    assert trace.says("GET /b") == "deny by default"
    trace.ask("GET /a")
    assert trace.says("GET /b") == "allow"


def test_a_definition_may_use_history() -> None:
    trace = Trace.of("define reviewed = after POST /review within 1h", guard('require reviewed or user.id == "root"'))
    assert trace.says("POST /pay") == SHUT
    trace.ask("POST /review")
    assert trace.says("POST /pay") == "allow"


# ── What is remembered ────────────────────────────────────────────────────────────────────────


def test_the_same_event_has_the_same_watch_name_in_every_policy() -> None:
    one = Trace.of(guard("require after POST /review within 1h")).kernel
    other = Trace.of('guard "h" on GET /x { deny unless after POST /review within 3h or user.id == "x" }').kernel
    assert [w.event.watch for w in one.watches] == [w.event.watch for w in other.watches]


@pytest.mark.parametrize(
    "other",
    [
        "require after POST /reviews within 1h", "require after (denied POST /review) within 1h",
        "require after POST /review within 1h per (user.id)", "require after (POST /review by any user) within 1h",
        "require after (POST /review where past.status < 400) within 1h", "require count of POST /review within 1h > 0",
        "require sum past.status of POST /review within 1h > 0",
    ],
)  # fmt: skip
def test_different_events_have_different_watch_names(other: str) -> None:
    one, two = (Trace.of(guard(each)).kernel.watches for each in ("require after POST /review within 1h", other))
    assert one[0].event.watch != two[0].event.watch


def test_a_watch_covers_the_longest_window_of_its_conditions() -> None:
    (watch,) = Trace.of(guard("require after GET /a within 5m   require after GET /a within 2h")).kernel.watches
    assert watch.within.total_seconds() == 7_200


# ── Mistakes ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("after POST /review within 0s", "E238"), ("after POST /review within 99999d", "E238"),
        ("after (POST /a where after POST /b within 1h) within 1h", "E253"),
        ("sum past.output.x of POST /a within 1h > 5 and past.status < 400", "E246"),
        ("after (POST /a where past.output.x == past.output.y) within 1h", "E253"),
        ('sum (past.output.x else "0") of POST /a within 1h > 5', "E230"),
        ("sum (past.output.x else time) of POST /a within 1h > 5", "E230"),
        ("sum (past.output.x else chain.depth) of POST /a within 1h > 5", "E258"),
        ("sum (past.output.x - 1) of POST /a within 1h > 5", "E258"),
        ("past.status is absent", "E246"),
        ("sum past.user.id of POST /a within 1h > 5", "E251"), ("sum user.id of POST /a within 1h > 5", "E246"),
        ("distinct past.credential.scopes of POST /a within 1h > 5", "E251"),
        ("count of POST /a within 1h per (user.nope) > 5", "E201"), ("after nope within 1h", "E207"),
    ],
)  # fmt: skip
def test_an_invalid_history_condition_is_rejected(condition: str, code: str) -> None:
    assert code in codes(f'anyone {{ may GET /a }}\nguard "g" on GET /a {{ require {condition} }}')
