"""Evaluations: scores of runs, figures that a slow computation gives too, and lines that cannot be used."""

import json
from random import Random

import pytest

from policyengine import Engine
from policyengine.behavior.evaluation.facts import FACTS
from policyengine.behavior.evaluation.figures import CombinedRanks, Separation, evaluate_runs
from policyengine.behavior.evaluation.runs import ScoredRun, score_traffic, train
from policyengine.behavior.evaluation.traffic import RunLabels, TrafficError, is_log, read_labels, read_traffic
from policyengine.behavior.events import ALLOWED, DENIED, HELD, Tagger
from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.log_events import FailureReport, LogEventReader
from policyengine.behavior.plain_event_reader import PlainEventReader
from policyengine.behavior.state import BehaviorState
from policyengine.cli.options.behavior import LearningPolicies
from tests.behavior.traffic import START, run_of, write_lines, write_traffic

SETTINGS = ProfileSettings()
NAMES = [fact.name for fact in FACTS]


def traffic(*files):
    events = PlainEventReader(None, Tagger(b"tests"))
    return read_traffic(files, LogEventReader(None), events, lambda message: None)


def evaluated(folder, settings=SETTINGS):
    state = BehaviorState(Tagger(b"tests"))
    train(traffic(folder / "train.jsonl"), state, lambda _: settings)
    scored = score_traffic(traffic(folder / "test.jsonl"), state, lambda _: settings)
    labels = RunLabels(read_labels(folder / "labels.jsonl")).match(scored.runs)
    return evaluate_runs(scored, labels, state.model, lambda _: settings), scored


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traffic")
    write_traffic(folder)
    return evaluated(folder)


# ── Scores ────────────────────────────────────────────────────────────────────────────────────


def test_each_kind_of_abuse_is_found_by_its_fact(result):
    found, _ = result
    for kind, fact in {"flood": "burst", "scan": "new_endpoints", "probe": "error_rate"}.items():
        assert found.facts[fact].kinds[kind].values["auc"] > 0.95
    assert found.together.values["auc"] > 0.98


def test_the_runs_are_counted_by_label(result):
    found, scored = result
    assert (found.normal, found.kinds, found.unlabelled) == (72, {"flood": 3, "probe": 3, "scan": 3}, 0)
    assert len(scored.runs) == 81
    assert sorted(found.facts) == sorted(NAMES)


def test_too_few_runs_are_reported_instead_of_a_figure(result):
    values, reasons = result[0].facts["burst"].values, result[0].facts["burst"].reasons
    assert values["tpr_at_1"] is None
    assert reasons["tpr_at_1"] == "needs 100 normal runs, and there are 72"
    assert reasons["tpr_at_0_1"] == "needs 1,000 normal runs, and there are 72"
    assert reasons["events_until_detection"] == reasons["tpr_at_1"]


def test_the_first_new_endpoint_is_the_detection_of_a_scan(tmp_path):
    write_traffic(tmp_path, later=5)
    found, _ = evaluated(tmp_path)
    assert found.facts["new_endpoints"].kinds["scan"].values["events_until_detection"] == 1
    assert 1 < found.facts["burst"].kinds["flood"].values["events_until_detection"] < 120


def test_the_declared_and_the_observed_rate_of_bursts_count_days(tmp_path):
    write_traffic(tmp_path, days=20)
    found, scored = evaluated(tmp_path, ProfileSettings(burst_days=20))
    assert found.facts["burst"].values["declared"] == pytest.approx(1 / 20)
    assert found.facts["burst"].values["observed"] == 0
    assert len(scored.days.burst) == 12


def test_too_few_days_are_not_calibrated(result):
    assert result[0].facts["burst"].values["declared"] is None
    assert "too few days" in result[0].facts["burst"].reasons["declared"]


def test_without_training_every_fact_is_neutral(tmp_path):
    write_traffic(tmp_path)
    (tmp_path / "train.jsonl").write_text("")
    found, _ = evaluated(tmp_path)
    for one in (*found.facts.values(), found.together):
        assert (one.values["auc"], one.values["ties"]) == (0.5, 1.0)
    assert "no normal days of ready callers" in found.facts["burst"].reasons["declared"]


@pytest.mark.parametrize(("label", "why"), [("normal", "no abusive runs"), ("odd", "no normal runs")])
def test_one_class_of_labels_gives_no_figures(tmp_path, label, why):
    write_traffic(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    write_lines(tmp_path / "labels.jsonl", [{**line, "label": label} for line in lines])
    found, _ = evaluated(tmp_path)
    assert found.together.values["auc"] is None
    assert found.together.reasons["auc"] == f"there are {why}"


def test_runs_of_one_name_are_told_apart_by_their_callers(tmp_path):
    write_traffic(tmp_path)
    at = START + 15 * 86_400_000
    events = [*run_of("bot-0", "x", at, ["GET /data"]), *run_of("bot-1", "x", at + 1, ["GET /data"])]
    write_lines(tmp_path / "test.jsonl", events)
    write_lines(tmp_path / "labels.jsonl", [{"run": "x", "label": "normal"}])
    with pytest.raises(TrafficError, match=r"labels\.jsonl`, line 1: several callers have a run of this name"):
        evaluated(tmp_path)
    labels = [
        {"run": "x", "issuer": "idp", "agent": f"bot-{each}", "label": ("normal", "odd")[each]} for each in (0, 1)
    ]
    write_lines(tmp_path / "labels.jsonl", labels)
    found, _ = evaluated(tmp_path)
    assert (found.normal, found.kinds) == (1, {"odd": 1})


def test_runs_without_a_label_are_counted(tmp_path):
    write_traffic(tmp_path)
    write_lines(tmp_path / "labels.jsonl", [])
    assert evaluated(tmp_path)[0].unlabelled == 81


def test_events_without_a_run_are_learned_and_not_scored(tmp_path):
    write_traffic(tmp_path)
    at = START + 15 * 86_400_000
    write_lines(tmp_path / "test.jsonl", run_of("bot-0", "", at, ["GET /data"] * 3))
    _, scored = evaluated(tmp_path)
    assert (scored.events, scored.without_run, scored.runs) == (3, 3, {})


def test_test_traffic_of_the_past_is_left_out_and_counted(tmp_path):
    write_traffic(tmp_path)
    write_lines(tmp_path / "test.jsonl", run_of("bot-0", "x", START, ["GET /data"] * 3))
    _, scored = evaluated(tmp_path)
    assert (scored.late, scored.events) == (3, 0)


# ── Figures ───────────────────────────────────────────────────────────────────────────────────


def separation(normal, abusive):
    return Separation(
        sorted(normal), [(score, lambda above, score=score: 7 if score > above else None) for score in abusive]
    )


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_those_of_a_slow_computation(seed):
    random = Random(seed)
    normal = [random.randrange(50) for _ in range(random.choice((100, 150, 1_000, 1_234)))]
    abusive = [random.randrange(20, 70) for _ in range(80)]
    found = separation(normal, abusive).figures().values
    pairs = [(a > n) + (a == n) / 2 for a in abusive for n in normal]
    assert found["auc"] == pytest.approx(sum(pairs) / len(pairs))
    assert found["ties"] == pytest.approx(sum(pair == 0.5 for pair in pairs) / len(pairs))
    for name, each in {"tpr_at_1": 100, "tpr_at_0_1": 1_000}.items():
        thresholds = [t for t in set(normal) if sum(n > t for n in normal) * each <= len(normal)]
        wanted = sum(a > min(thresholds) for a in abusive) / len(abusive) if len(normal) >= each else None
        assert found[name] == (None if wanted is None else pytest.approx(wanted))


def test_equal_scores_are_no_detection():
    found = separation([5] * 200, [5] * 3).figures().values
    assert (found["auc"], found["ties"], found["tpr_at_1"], found["events_until_detection"]) == (0.5, 1, 0, None)


def test_a_long_run_has_few_steps():
    run, burst = ScoredRun(0), NAMES.index("burst")
    for number in range(1, 100_000):
        run.events = number
        run.score(burst, number * 1_000)
    assert len(run.steps[burst]) < 700
    assert run.best[burst] == 99_999_000
    assert 50_000 < run.first_above(burst, 50_000_000) <= 50_000 * (1 + 2 / 64)
    assert run.first_above(burst, 99_999_000) is None


def test_the_combined_rank_is_the_highest_of_all_facts():
    ranks = CombinedRanks([[1, 2, 3, 4]] * len(FACTS))
    run = ScoredRun(0)
    for number, value in enumerate((0, 3, 9), 1):
        run.events = number
        run.score(1, value)
    assert ranks.score(run) == 4
    assert [ranks.first_above(run, threshold) for threshold in range(5)] == [2, 2, 3, 3, None]


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────


def one_line(tmp_path, **members):
    event = {"at": START, "issuer": "idp", "agent": "a", "run": "r", "endpoint": "GET /x", **members}
    return write_lines(tmp_path / "events.jsonl", [event])


@pytest.mark.parametrize(
    ("members", "outcome", "failures"),
    [
        ({}, ALLOWED, 0),
        ({"status": 200}, ALLOWED, 0),
        ({"status": 500}, ALLOWED, 1),
        ({"outcome": "deny", "status": 403}, DENIED, 0),
        ({"outcome": "throttle"}, HELD, 0),
    ],
)
def test_the_status_and_the_outcome_say_how_a_request_came_out(tmp_path, members, outcome, failures):
    first, *others = traffic(one_line(tmp_path, **members))
    assert first.event.outcome == outcome
    assert [type(one) for one in others] == [FailureReport] * failures


def test_the_body_is_ignored_for_now(tmp_path):
    [found] = traffic(one_line(tmp_path, body={"a": [1, {"b": None}]}))
    assert found.run == "r"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"at": "soon", "agent": "a", "endpoint": "x"}', "datetime"),
        ('{"at": -1, "agent": "a", "endpoint": "x"}', "`at` is out of range"),
        ('{"at": 1, "agent": "a", "endpoint": "x", "body": ' + "[" * 100_000, "recursion"),
        ("nonsense", "malformed"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, line, why):
    file = one_line(tmp_path)
    with file.open("a") as more:
        more.write(line + "\n")
    with pytest.raises(TrafficError) as error:
        list(traffic(file))
    assert f"`{file}`, line 2: " in str(error.value)
    assert why in str(error.value)


def test_endpoints_are_those_that_the_policies_declare(tmp_path):
    idp = 'issuer idp { url "https://idp.example"  scopes none }'
    engine = Engine.from_text(f'{idp} agent "a" {{ issued by idp  acts alone  may GET /data/{{id}} }}')
    state = BehaviorState(Tagger(b"tests"))
    reader = LearningPolicies(engine).reader(state)
    file = write_lines(tmp_path / "events.jsonl", run_of("a", "r", START, ["GET /data/7", "GET /data/8", "GET /x"]))
    found = read_traffic([file], LogEventReader(None), PlainEventReader(reader, state.tagger), lambda message: None)
    assert [(one.event.endpoint, one.event.group) for one in found] == [
        *[("GET /data/{id}", 'agent "a"')] * 2,
        ("GET /x", 'agent "a"'),
    ]


def test_events_of_several_files_are_read_in_the_order_of_time(tmp_path):
    files = []
    for number, starts in enumerate(([0, 5], [3, 4])):
        events = [event for start in starts for event in run_of("a", str(start), START + start, ["x"])]
        files.append(write_lines(tmp_path / f"{number}.jsonl", events))
    assert [found.run for found in traffic(*files)] == ["0", "3", "4", "5"]
    assert not is_log(files[0])


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ({"run": "a", "label": "odd"}, "the run has another label at"),
        ({"run": "b", "label": "odd", "agent": "x"}, "give both `issuer` and `agent`"),
        ({"run": "b"}, "Object missing required field `label`"),
    ],
)
def test_labels_that_cannot_be_used_are_named(tmp_path, second, why):
    file = write_lines(tmp_path / "labels.jsonl", [{"run": "a", "label": "normal"}, second])
    with pytest.raises(TrafficError, match=rf"labels.jsonl`, line 2: {why}"):
        RunLabels(read_labels(file))
