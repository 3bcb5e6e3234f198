"""What a reload takes away or opens is refused unless somebody allows it, and what it opened is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from policyengine.compiler.bundle.file import write_bundle
from policyengine.engine import Engine
from policyengine.reload import (
    ReloadableEngine,
    ReloadRefusedError,
    ReloadRuleError,
    ReloadRules,
    ReloadSource,
    prepare_candidate,
)
from policyengine.reload.comparison import PolicyComparison, WideningChange, compare_bundles
from policyengine.reload.rules import RULE_WORDS
from policyengine.reload.scheduler import ReloadScheduler
from tests.reload.conftest import ASK, OPEN, QUIET, SHUT

ROWS = '{"entities": [{"type": "user", "id": "alice"}]}'


def held_of(folder: Path, rules: ReloadRules = QUIET, entities: Path | None = None) -> ReloadableEngine:
    return ReloadableEngine.load(folder, entities=entities, rules=rules)


@pytest.fixture
def shut(folder: Path) -> Path:
    (folder / "shop.policy").write_text(OPEN)
    (folder / "guards.policy").write_text(SHUT.replace(OPEN, "language 1\npackage shop\n"))
    return folder


# ── What is gone ──────────────────────────────────────────────────────────────────────────────


def emptied(folder: Path) -> None:
    (folder / "guards.policy").write_text("")


def removed(folder: Path) -> None:
    (folder / "guards.policy").unlink()


def moved_away(folder: Path) -> None:
    (folder / "guards.policy").rename(folder / "guards.policy.old")


def another(folder: Path) -> None:
    (folder / "guards.policy").write_text("language 1\npackage shop\nanyone { may GET /more }\n")


def made_a_folder(folder: Path) -> None:
    removed(folder)
    (folder / "guards.policy").mkdir()


def linked_to_nothing(folder: Path) -> None:
    removed(folder)
    (folder / "guards.policy").symlink_to("nowhere.policy")


LOSSES = [emptied, removed, moved_away, another, made_a_folder, linked_to_nothing]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_reload_that_loses_a_guard_file_is_rejected(shut: Path, lose: Callable[[Path], object]) -> None:
    held = held_of(shut)
    lose(shut)
    assert not held.reload()
    assert held.current.decide(ASK).outcome == "deny"
    assert held.reloads.refused == 1


def test_the_log_names_the_removed_guard_its_place_and_how_to_allow_it(
    shut: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = held_of(shut)
    another(shut)
    revision = Engine.load(shut).revision
    assert not held.reload()
    assert held.reloads.why == "1 guard is gone"
    assert held.reloads.reasons == (("removed", 1),)
    text = caplog.records[-1].getMessage()
    assert 'guard "closed" of shop, which was at guards.policy:3' in text
    assert f'write `allow = ["{revision}"]` under `[reload]` in `policyengine.toml`' in text
    assert "or restart; `removed-guards` always allows it" in text


@pytest.mark.parametrize(
    ("allow", "done"),
    [
        (["removed-guards"], True),
        (["removed-limits", "removed-files", "removed-packages", "widening"], False),
        (["sha256:" + "0" * 64], False),
    ],
)
@pytest.mark.parametrize("once", [False, True])
def test_an_allow_word_allows_only_the_change_it_names(shut: Path, allow: list[str], done: bool, once: bool) -> None:
    held = held_of(shut, QUIET if once else ReloadRules.of(allow, seconds=0))
    another(shut)
    assert held.reload(allow=allow if once else ()) is done
    assert held.current.decide(ASK).allowed is done


def test_an_allowed_revision_allows_only_that_revision(shut: Path) -> None:
    held = held_of(shut)
    another(shut)
    revision = Engine.load(shut).revision
    (shut / "more.policy").write_text("language 1\npackage shop\nanyone { may GET /most }\n")
    assert not held.reload(allow=[revision])
    (shut / "more.policy").unlink()
    assert held.reload(allow=[revision])


def test_a_change_allowed_for_one_reload_is_not_allowed_again(shut: Path) -> None:
    held = held_of(shut)
    another(shut)
    assert held.reload(allow=["removed-guards"])
    (shut / "guards.policy").write_text(SHUT.replace(OPEN, "language 1\npackage shop\n"))
    assert held.reload()
    another(shut)
    assert not held.reload()


def test_the_reload_rules_are_read_at_each_reload(shut: Path) -> None:
    rules = [QUIET]
    origin = ReloadSource((shut,))
    held = ReloadableEngine(Engine.load(shut), origin, lambda: rules[0])
    another(shut)
    assert not held.reload()
    rules[0] = replace(QUIET, allow=frozenset({"removed-guards"}))
    assert held.reload()


def test_a_reload_is_rejected_when_its_rules_cannot_be_read(shut: Path) -> None:
    def unreadable() -> ReloadRules:
        raise ReloadRefusedError("cannot read which changes a reload may make")

    held = ReloadableEngine(Engine.load(shut), ReloadSource((shut,)), unreadable)
    (shut / "more.policy").write_text("language 1\npackage shop\nanyone { may GET /most }\n")
    assert not held.reload()
    assert held.reloads.why == "cannot read which changes a reload may make"


def test_a_rejected_reload_is_retried_only_after_the_settings_change(shut: Path, tmp_path: Path) -> None:
    settings, times = tmp_path / "policyengine.toml", []
    origin = ReloadSource((shut,), settings=settings)

    def preparing(origin: ReloadSource) -> object:
        times.append(1)
        return prepare_candidate(origin)

    held = ReloadableEngine(Engine.load(shut), origin, lambda: QUIET)
    attempts = ReloadScheduler(held, True, preparing)  # type: ignore[arg-type]
    another(shut)
    assert [attempts.candidate() for _ in range(4)] == [None] * 4
    assert (len(times), held.reloads.refused) == (1, 1)
    settings.write_text("[reload]\n")
    assert [attempts.candidate() for _ in range(4)] == [None] * 4
    assert (len(times), held.reloads.refused) == (2, 2)


def test_a_new_bundle_is_compared_with_the_previous_one(tmp_path: Path) -> None:
    file = tmp_path / "shop.policybundle"
    file.write_bytes(write_bundle(Engine.from_text(SHUT).kernel, "test"))
    held = held_of(file)
    file.write_bytes(write_bundle(Engine.from_text(OPEN).kernel, "test"))
    assert not held.reload()
    assert held.reloads.why == "1 guard is gone"
    assert held.reload(allow=["removed-guards"])


def test_a_reload_is_compared_with_a_manually_replaced_engine(folder: Path) -> None:
    held = held_of(folder)
    held.replace(held.current.successor(Engine.from_text(SHUT, "shop.policy").kernel))
    assert not held.reload()
    assert held.reloads.why == "1 guard is gone"


# ── Rows ──────────────────────────────────────────────────────────────────────────────────────


def test_a_reload_that_loses_all_entity_rows_needs_removed_entities(folder: Path, tmp_path: Path) -> None:
    (folder / "shop.policy").write_text(OPEN + "entity user { }\n")
    rows = tmp_path / "entities.json"
    rows.write_text(ROWS)
    held = held_of(folder, entities=rows)
    rows.write_text("{}")
    assert not held.reload(allow=[held.current.revision])
    assert (held.reloads.why, len(held.current.directory)) == ("rows of 1 entity type are gone", 1)
    assert held.reload(allow=["removed-entities"])
    assert len(held.current.directory) == 0


# ── Words ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", [*RULE_WORDS, "sha256:" + "a" * 64])
def test_rule_words_and_revisions_can_be_allowed(word: str) -> None:
    assert ReloadRules.of([word]).allow == {word}


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("removed-guard", "did you mean `removed-guards`?"),
        ("all", "use `cut-files`"),
        ("sha256:0", "use `cut-files`"),
    ],
)
def test_an_unknown_allow_word_is_rejected_with_a_hint(word: str, hint: str) -> None:
    with pytest.raises(ReloadRuleError) as error:
        ReloadRules.of([word])
    assert error.value.message == f"`{word}` is not something that a reload can allow"
    assert error.value.hint.startswith(hint)


# ── What opens ────────────────────────────────────────────────────────────────────────────────

WIDER = OPEN + "anyone { may GET /more }\n"
HARD = 'language 1\npackage shop\nanyone { may GET /health when request.host matches "a+" }\n'
HARDER = HARD.replace('"a+"', '"(a|b)+"')


def bundles(*texts: str) -> list[bytes]:
    return [write_bundle(Engine.from_text(text).kernel, "test") for text in texts]


def test_a_widening_names_its_rule_and_place_and_shows_a_request() -> None:
    found = compare_bundles(*bundles(SHUT, OPEN), 30.0)
    assert found.unproved == ()
    (one,) = found.widenings
    assert (one.rule, one.change) == ('guard "closed"', "deny -> allow")
    assert all(place.startswith("GET /health · ") for place in one.places)
    assert one.request is not None
    assert Engine.from_text(OPEN).decide(one.request).allowed
    assert not Engine.from_text(SHUT).decide(one.request).allowed
    assert one.words.startswith("deny -> allow at GET /health · ")


@pytest.mark.parametrize(
    ("old", "new", "rules"),
    [
        (
            'rate "r" per request.ip on GET /health { 1/1m }',
            'rate "r" per request.ip on GET /health { 9/1m }',
            ['rate "r"'],
        ),
        ('rate "r" per request.ip on GET /health { 1/1m }', "", ['rate "r"']),
        ("", 'rate "r" per request.ip on GET /health { 1/1m }', []),
        ('guard "g" on GET /health { confirm by user }', "", ['guard "g"']),
        ("", 'guard "g" on GET /health { deny }', []),
        ("", 'map authzen { subject "x" => user }', ["map authzen"]),
    ],
)
def test_each_widening_change_names_its_rule(old: str, new: str, rules: list[str]) -> None:
    found = compare_bundles(*bundles(OPEN + "entity user { }\n" + old, OPEN + "entity user { }\n" + new), 30.0)
    assert [one.rule for one in found.widenings] == rules


def test_a_guard_at_a_path_in_another_letter_case_is_a_widening() -> None:
    policy = "language 1\npackage a\nentity invoice { }\nanyone { may POST /inv/{id: invoice} }\n"
    guard = 'guard "y" on POST /inv/ab { deny when resource.id == "aB" }\n'
    for new in (policy, policy + guard.replace('"aB"', '"zz"')):
        found = compare_bundles(*bundles(policy + guard, new), 30.0)
        assert found.unproved == ()
        (one,) = found.widenings
        assert (one.rule, one.change) == ('guard "y"', "deny -> allow")
        assert one.request is not None
        assert one.request["request"]["path"] == "/inv/aB"


def test_a_comparison_that_times_out_is_unproved() -> None:
    found = compare_bundles(*bundles(OPEN, SHUT), 1e-6)
    assert (found.widenings, found.unproved) == ((), ("not everything was compared within 1e-06 s",))


def gated(folder: Path, allow: Iterable[str] = (), seconds: float = 30.0) -> ReloadableEngine:
    return held_of(folder, ReloadRules.of(allow, gate=True, seconds=seconds))


@pytest.mark.deep
def test_the_gate_compares_in_a_process(folder: Path) -> None:
    held = gated(folder)
    (folder / "shop.policy").write_text(WIDER)
    assert not held.reload()
    assert held.reloads.why == "1 change allows more requests than before"
    assert held.reloads.reasons == (("widening", 1),)
    assert held.reload(allow=["widening"])


def test_the_gate_rejects_a_widening_unless_it_is_allowed(folder: Path, answering: type[Answering]) -> None:
    answering.found = PolicyComparison((WideningChange('guard "g"', (), "deny -> allow"),))
    held = gated(folder)
    (folder / "shop.policy").write_text(WIDER)
    assert not held.reload()
    assert held.reloads.why == "1 change allows more requests than before"
    assert held.reloads.reasons == (("widening", 1),)
    assert held.reload(allow=["widening"])


class Answering:
    """A comparison that says what it is told to: what it says of real policies, other tests say."""

    found = PolicyComparison()

    def __init__(self, old: bytes, new: bytes, seconds: float) -> None:
        assert old != new

    def wait(self) -> PolicyComparison:
        return self.found

    poll = wait

    def join(self) -> None: ...


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> type[Answering]:
    monkeypatch.setattr("policyengine.reload.gate.ComparisonProcess", Answering)
    monkeypatch.setattr(Answering, "found", PolicyComparison())
    return Answering


@pytest.mark.parametrize(
    ("allow", "done"), [([], False), (["widening"], False), (["unproved"], True), (["revision"], True)]
)
def test_the_gate_rejects_an_unproved_change_unless_it_is_allowed(
    folder: Path, answering: type[Answering], allow: list[str], done: bool
) -> None:
    answering.found = PolicyComparison((), ("GET /x · anybody: too many conditions",))
    held = gated(folder)
    (folder / "shop.policy").write_text(WIDER)
    allow = [Engine.load(folder).revision if word == "revision" else word for word in allow]
    assert held.reload(allow=allow) is done
    assert held.reloads.reasons == (() if done else (("unproved", 1),))


ISSUER = 'issuer acme { url "https://acme.example" audience "notes" }\n'
CALM = 'guard "calm" on GET /a { deny when count of GET /a within 1h > 10 }\n'


@pytest.mark.parametrize(
    ("old", "new"),
    [("acme.example", "acme.dev"), (' audience "notes"', ""), ("issuer acme", "issuer other { }\nissuer acme")],
)
def test_a_changed_issuer_is_a_widening(old: str, new: str) -> None:
    found = compare_bundles(*bundles(OPEN + ISSUER, OPEN + ISSUER.replace(old, new)), 30.0)
    assert [one.rule.split()[0] for one in found.widenings] == ["issuer"]


def test_a_change_without_an_example_request_is_unproved_and_names_its_rule() -> None:
    policy = "anyone { may GET /a }\n" + CALM
    found = compare_bundles(*bundles(policy, policy.replace("> 10", "> 20")), 30.0)
    assert not found.widenings
    assert found.unproved
    assert all('guard "calm"' in one for one in found.unproved)


def test_the_gate_rejects_a_change_when_comparing_is_disabled(folder: Path) -> None:
    held = gated(folder, seconds=0)
    (folder / "shop.policy").write_text(WIDER)
    assert not held.reload()
    assert held.reloads.why == "it is not proved that the new policies allow no more than before"


def test_the_gate_accepts_a_change_without_a_widening(folder: Path, answering: type[Answering]) -> None:
    held = gated(folder)
    (folder / "shop.policy").write_text(SHUT)
    assert held.reload()
    assert not held.current.decide(ASK).allowed


def test_a_widening_is_logged_after_the_reload(
    folder: Path, answering: type[Answering], caplog: pytest.LogCaptureFixture
) -> None:
    answering.found = PolicyComparison(
        (WideningChange('guard "g"', ("GET /a · anyone",), "deny -> allow", {"request": {}}),), ("a doubt",)
    )
    held = ReloadableEngine(Engine.load(folder), ReloadSource((folder,)))
    attempts = ReloadScheduler(held, True, prepare_candidate)
    (folder / "shop.policy").write_text(WIDER)
    attempts.candidate()
    candidate = attempts.candidate()
    assert candidate is not None
    before = held.current.revision
    with caplog.at_level(logging.INFO):
        held.replace(held.engine_of(candidate))
        assert (held.reloads.widens, held.reloads.proved) == (None, None)
        attempts.candidate()  # begins
        attempts.candidate()  # and ends
    widens, compared_ = (
        one
        for one in caplog.records
        if getattr(one, "event", "") in ("reload_widens", "reload_compared")
        and vars(one)["revision"] == held.current.revision  # and not of a test before, whose thread ended late
    )
    told = vars(widens)
    assert (told["rule"], told["places"], told["request"]) == ('guard "g"', ["GET /a · anyone"], {"request": {}})
    assert (told["revision"], told["before"]) == (held.current.revision, before)
    assert vars(compared_)["unproved"] == ["a doubt"]
    assert (held.reloads.widens, held.reloads.proved, held.reloads.widened) == (1, False, 1)
    assert attempts.pause is not None
    assert not held.gate.busy


def test_a_single_process_engine_compares_in_a_thread(folder: Path, answering: type[Answering]) -> None:
    answering.found = PolicyComparison((), ("a doubt",))
    held = ReloadableEngine.load(folder)
    (folder / "shop.policy").write_text(WIDER)
    assert held.reload()
    while held.reloads.widens is None:
        time.sleep(0.01)
    assert (held.reloads.widens, held.reloads.proved) == (0, False)


def test_waiting_comparisons_are_merged_into_one(folder: Path, answering: type[Answering]) -> None:
    held = ReloadableEngine(Engine.load(folder), ReloadSource((folder,)))
    told: list[int] = []
    for text in (WIDER, SHUT, OPEN):
        held.replace(held.current.successor(Engine.from_text(text).kernel))
    held.gate.attend(lambda widens, proved: told.append(widens))
    assert told == [0]  # back to where it began: there is nothing to compare
    assert not held.gate.busy


def test_a_closed_gate_starts_no_comparison(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.reload.gate.ComparisonProcess", lambda *_: pytest.fail("it began"))
    held = ReloadableEngine(Engine.load(folder), ReloadSource((folder,)))
    held.replace(held.current.successor(Engine.from_text(WIDER).kernel))
    held.gate.close()
    held.attend()
    held.replace(held.current.successor(Engine.from_text(SHUT).kernel))
    assert not held.gate.busy
    held.attend()
