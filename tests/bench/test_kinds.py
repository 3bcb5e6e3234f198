"""Every kind of question has its outcome, here and at the peers that can say it; others are not timed."""

from typing import Any, ClassVar
from xml.etree import ElementTree

import pytest

from bench import kind_chart, kinds
from bench.kind_questions import APPROVED, Kind
from bench.kind_questions import kinds as make_kinds
from bench.kinds import Footnotes
from bench.peers import KIND_PEERS
from bench.peers.kind_peer import KindPeer
from bench.report import Target
from bench.workload import workload

MACHINE = {
    "versions": {"agent-policyengine": "0.1.0"}, "cpu": "a <cpu>", "cores": 2, "system": "Linux", "python": "CPython",
    "load": 0.1, "timer_ns": 40, "build": "pure", "at": "now",
}  # fmt: skip
SMALL = workload(12, 40)


@pytest.fixture(autouse=True)
def few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "REQUESTS", 40)


def row(kind: str, **more: Any) -> dict[str, Any]:
    timed = {"p50_us": 4.0, "p99_us": 8.0, "floor_p50_us": 2.0, "floor_p99_us": 3.0, "ratio": 2.0}
    return {"kind": kind, "outcome": "allow", **timed, "most_ratio": 1.5, "most_us": None, "is_short": True, **more}


def test_every_kind_is_timed_with_its_outcome() -> None:
    found = kinds.measure(12, seconds=0)
    assert {one["kind"] for one in found["kinds"]} == {kind.name for kind in make_kinds(SMALL)} | set(APPROVED)
    assert all(one["p50_us"] > 0 for one in found["kinds"])


def test_a_kind_with_another_outcome_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [Kind("confirm", "throttle", make_kinds(SMALL)[0].questions)]
    monkeypatch.setattr(kinds, "kinds", lambda _: wrong)
    monkeypatch.setattr(kinds, "approved_kinds", lambda *_: [])
    with pytest.raises(ValueError, match="confirm: allow instead of throttle"):
        kinds.measure(12, seconds=0)


@pytest.mark.parametrize("name", [entry.name for entry in KIND_PEERS])
def test_a_peer_agrees_on_every_kind_that_it_can_say(name: str) -> None:
    entry = next(entry for entry in KIND_PEERS if entry.name == name)
    if entry.version is None:
        pytest.skip(f"{entry.package} is missing: make tools")
    found = kinds.measure_peer(name, 12, seconds=0)["kinds"]
    assert [one for one in found if "skipped" in one] == []
    assert {one["kind"] for one in found if "cannot" in one} >= set(APPROVED)
    assert {one["kind"] for one in found if "p50_us" in one} >= {
        "allow",
        "deny",
        "fact absent",
        "confirm",
        "chain of 8",
    }


@pytest.mark.parametrize("name", [entry.name for entry in KIND_PEERS])
def test_a_peer_checks_what_a_chain_and_an_amount_say(name: str) -> None:
    """A peer that allowed everything would agree with kinds that are all allowed."""
    entry = next(entry for entry in KIND_PEERS if entry.name == name)
    if entry.version is None:
        pytest.skip(f"{entry.package} is missing: make tools")
    peer: KindPeer = entry.loader()(SMALL)
    questions = {kind.name: kind.questions[0] for kind in make_kinds(SMALL)}
    chain, paid = questions["chain of 2"], questions["decimal"]
    first, second = chain["chain"]["hops"]
    changed = [
        {**chain, "chain": {"hops": [second, first]}},
        {**chain, "chain": {"hops": [first, {**second, "scopes": []}]}},
        {**chain, "chain": {"hops": [{**first, "issued_at": "2020-01-01T00:00:00Z"}, second]}},
        {**paid, "credential": {"scopes": []}},
        {**paid, "agent": {**paid["agent"], "id": "other"}},
    ]
    kinds_of = ["chain of 2"] * 3 + ["decimal"] * 2
    outcomes = [
        peer.outcome(peer.ask_function(kind)(peer.question(one))) for kind, one in zip(kinds_of, changed, strict=True)
    ]
    assert outcomes == ["deny"] * 5


class Wrong:
    """A peer that allows everything and cannot express a confirm."""

    cannot: ClassVar = dict.fromkeys((*APPROVED, "confirm"), "It knows only two outcomes.")
    partial: ClassVar[dict[str, str]] = {}

    def question(self, asked: Any) -> Any:
        return asked

    def ask_function(self, kind: str) -> Any:
        return lambda question: "allow"

    def outcome(self, answer: Any) -> str:
        return str(answer)


def test_a_peer_that_disagrees_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(KIND_PEERS[0]), "loader", lambda _: lambda work: Wrong())
    found = {one["kind"]: one for one in kinds.measure_peer(KIND_PEERS[0].name, 12, seconds=0)["kinds"]}
    assert found["deny"] == {"kind": "deny", "skipped": "wrong: question 1 is deny, not allow"}
    assert found["confirm"] == {"kind": "confirm", "cannot": "It knows only two outcomes."}
    assert found["allow"]["p50_us"] > 0


# ── The table ─────────────────────────────────────────────────────────────────────────────────

OURS = {"size": 10, "build": "compiled", "kinds": [row("allow"), row("chain of 8", is_short=False, p99_us=400.0)]}
PEER = {
    "peer": KIND_PEERS[0].name,
    "size": 10,
    "kinds": [row("allow", partial="Half of it."), {"kind": "chain of 8", "cannot": "It knows no chain."}],
}


def test_the_table_shows_times_and_why_a_peer_cannot_say_a_kind() -> None:
    section = kinds.section([OURS, PEER])
    assert section.rows[0][2:] == ("4.00 / 8.00 (2.00×)", "4.00 (2.00×) [1]")
    assert section.rows[1][-1] == "not expressible [2]"
    assert section.notes[-2:] == ("[1] Half of it.", "[2] It knows no chain.")


def test_a_missing_peer_shows_how_to_install_it() -> None:
    section = kinds.section([OURS, {"peer": KIND_PEERS[0].name, "kinds": [], "error": "not installed"}])
    assert section.rows[0][-1] == "–"
    assert f"Not measured: {KIND_PEERS[0].title}, not installed" in section.notes


def test_the_compiled_build_has_a_target_for_each_kind_and_the_pure_one_for_all() -> None:
    compiled = kinds.section([OURS]).targets
    assert [one.what for one in compiled[:2]] == ["allow, at the worst size", "chain of 8, at the worst size"]
    pure = kinds.section([{**OURS, "build": "pure"}]).targets
    assert pure[0] == Target("all but long chains, at worst (allow)", kinds.PURE_RATIO, 2.0)
    assert pure[1].unit == "µs"


def test_the_tail_of_long_chains_has_no_target() -> None:
    assert kinds.section([OURS]).targets[-1] == Target("p99 relative to p50, at worst (allow)", kinds.TAIL, 2.0)


def test_growth_is_relative_to_that_of_the_floor() -> None:
    small = {**OURS, "kinds": [row("allow"), row("deny")]}
    large = {**small, "size": 100, "kinds": [row("allow", p50_us=8.0, floor_p50_us=4.0), row("deny", p50_us=8.0)]}
    assert [one.seen for one in kinds.section([small, large]).targets[-2:]] == [1.0, 2.0]


def test_equal_footnotes_share_a_number() -> None:
    notes = Footnotes()
    assert [notes.mark(text) for text in ("a", "b", "a", None)] == [" [1]", " [2]", " [1]", ""]


# ── The chart ─────────────────────────────────────────────────────────────────────────────────


def drawn() -> str:
    return kind_chart.svg(10, [OURS, PEER], [OURS], MACHINE)


def test_the_chart_names_kinds_peers_and_the_machine() -> None:
    text = "".join(ElementTree.fromstring(drawn()).itertext())
    assert all(name in text for name in ("allow", "chain of 8", "floor", "a <cpu>", KIND_PEERS[0].title))


def test_the_chart_has_colors_for_dark_pages_and_fetches_nothing() -> None:
    assert "prefers-color-scheme: dark" in drawn()
    assert "href" not in drawn()


def test_the_chart_marks_both_builds_and_only_peers_that_were_timed() -> None:
    marks = ElementTree.fromstring(drawn()).iter()
    classes = [one.get("class") for one in marks]
    assert (classes.count("pure"), classes.count("compiled")) == (3, 3)  # two kinds and the legend
    assert classes.count("peer") == len(KIND_PEERS) + 1
