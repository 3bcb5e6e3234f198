"""Captures of segments that match a literal only in another spelling: any spelling can be asked for."""

from __future__ import annotations

import sys
from itertools import product
from random import Random

import pytest

from policyengine import kernel as k
from policyengine.analysis import Diff, compare
from policyengine.analysis.diff import segment_spellings
from policyengine.analysis.diff.endpoint_classes import endpoint_classes, patterns_of
from policyengine.analysis.diff.oracle import PolicyOracle
from policyengine.analysis.diff.segment_spellings import (
    FOREIGN_LETTERS,
    MAX_SPELLINGS,
    SPLIT_CHARACTERS,
    spellings,
    splitting_texts,
)
from policyengine.engine import Engine
from policyengine.runtime import paths
from policyengine.runtime.endpoints import HttpEndpoint
from policyengine.runtime.letter_case import fold_case
from policyengine.solver.witness.values import MONDAY
from policyengine.spec.match_endpoint import match_pattern
from tests.depth import examples, scaled
from tests.generate import kernel_of as kernel_of_policy
from tests.generate.spellings import spelled_pair, spelled_paths

ENTITY = "entity invoice { tenant: string? }\n"
INVOICES = ENTITY + "anyone { may POST /inv/{id: invoice} }\n"
NAMES = ENTITY + "scope s { POST /inv/{name} }\nanyone { may s }\n"
LABELS = (
    "facts on POST /inv/{name} { body.label: string? }\n"
    "scope s { POST /inv/{name} with body.label = params.name }\nanyone { may s }\n"
)
LOWER = LABELS.replace("= params.name", "= lower(params.name)")
TWO = "anyone { may POST /{x}/{y} }\n"
SPLIT = "scope s { POST /inv/as{id} }\nanyone { may POST /inv/* }\n"
LONG = "customers-of-the-northern-region"


def kernel_of(text: str) -> k.Kernel:
    return Engine.from_text(f"language 1\npackage a\n{text}").kernel


def diff(head: str, place: str, old: str, new: str) -> Diff:
    """Compare two policies with one guard, or without one; each request that is told is answered as is told."""

    def text(condition: str) -> str:
        return head + (f'guard "y" on POST {place} {{ deny when {condition} }}\n' if condition else "")

    before, after = kernel_of(text(old)), kernel_of(text(new))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_spellings, "MAX_SPELLINGS", 200)
        found = compare(before, after, samples=0)
    for difference in found.differences:
        for witness in difference.witnesses:
            traced = [PolicyOracle(kernel).traced(witness.question, witness.at) for kernel in (before, after)]
            outcomes = [decision.outcome for decision, _, _ in traced]
            assert outcomes == [difference.old.outcome, difference.new.outcome]
    return found


def paths_of(found: Diff) -> set[str]:
    return {one.question["request"]["path"] for each in found.differences for one in each.witnesses}


WIDENINGS = [
    pytest.param(INVOICES, "/inv/ab", 'resource.id == "aB"', 'resource.id == "zz"', "/inv/aB", id="another id"),
    pytest.param(INVOICES, "/inv/ab", 'resource.id == "aB"', "", "/inv/aB", id="no guard"),
    pytest.param(INVOICES, "/inv/ab", 'resource.id in ["aB", "Ab"]', 'resource.id == "aB"', "/inv/Ab", id="one less"),
    pytest.param(INVOICES, "/inv/ab", 'resource == invoice("aB")', "", "/inv/aB", id="the resource"),
    pytest.param(INVOICES, "/inv/ab", 'params.id.id == "aB"', 'params.id.id == "zz"', "/inv/aB", id="a reference"),
    pytest.param(
        NAMES.replace("{name}", "{name} with resource = invoice(params.name)"), "/inv/ab", 'resource.id == "aB"', "",
        "/inv/aB", id="a resource from a capture",
    ),
    pytest.param(INVOICES, "/inv/ab", 'resource.id < "B"', 'resource.id < "Aa"', "/inv/Ab", id="an order"),
    pytest.param(INVOICES, "/inv/ab", 'resource.id like "a*"', 'resource.id like "ab*"', "/inv/aB", id="a pattern"),
    pytest.param(NAMES, "/inv/secret", 'params.name == "sEcret"', "", "/inv/sEcret", id="a capture"),
    pytest.param(LABELS, "/inv/secret", 'body.label == "sEcret"', "", "/inv/sEcret", id="a fact from a capture"),
    pytest.param(
        NAMES, "/inv/limit", 'params.name == "lım\u0130t"', "", "/inv/l%C4%B1m%C4%B0t", id="the i of Turkish"
    ),
    pytest.param(NAMES, "/inv/pass", 'params.name == "paß"', "", "/inv/pa%C3%9F", id="two letters in one"),
    pytest.param(NAMES, "/inv/pass", 'params.name == "pAẞ"', 'params.name == "paß"', "/inv/pA%E1%BA%9E", id="large ß"),
    pytest.param(TWO, "/inv/ab", 'params.x == "INv" and params.y == "aB"', "", "/INv/aB", id="two segments"),
    pytest.param(TWO, "/inv/ab", 'params.x == "inv" and params.y == "aB"', "", "/inv/aB", id="the last segment"),
    pytest.param(TWO, "/inv/ab", 'params.x == "iNv" and params.y == "ab"', "", "/iNv/ab", id="the first segment"),
    pytest.param(
        SPLIT, "/inv/as{id}", 'not (params.id == "q" or params.id != "q")', "", "/inv/a%C3%9Fx", id="half a character"
    ),
    pytest.param(
        SPLIT.replace("as{", "is{"), "/inv/is{id}", 'not (params.id == "q" or params.id != "q")', "",
        "/inv/i%C3%9Fx", id="half a character, or another letter",
    ),
    pytest.param(NAMES, f"/inv/{LONG}", f'params.name == "{LONG.title()}"', "", f"/inv/{LONG.title()}", id="long"),
]  # fmt: skip


@pytest.mark.parametrize(("head", "place", "old", "new", "path"), WIDENINGS)
def test_a_widening_at_another_spelling_has_a_witness(head: str, place: str, old: str, new: str, path: str) -> None:
    found = diff(head, place, old, new)
    assert found.opens
    assert path in paths_of(found)


def test_an_attribute_of_a_resource_in_another_spelling_has_a_witness() -> None:
    found = diff(INVOICES, "/inv/ab", 'resource.id == "aB" and resource.tenant == "evil"', 'resource.tenant == "x"')
    assert found.opens
    assert "/inv/aB" in paths_of(found)


def test_a_body_that_equals_a_capture_in_another_spelling_has_a_witness() -> None:
    head = "facts on POST /inv/{name} { body.label: string }\n" + NAMES
    found = diff(head, "/inv/ab", "body.label == params.name", 'body.label == "q"')
    assert found.opens
    assert paths_of(found) >= {"/inv/AB"}


@pytest.mark.parametrize(
    ("head", "place", "old", "new"),
    [
        (INVOICES, "/inv/ab", 'resource.id == "zz"', ""),
        (INVOICES, "/inv/ab", 'resource.id == "zz"', 'resource.id == "abb"'),
        (INVOICES, "/inv/ab", 'resource == invoice("zz")', ""),
        (NAMES, "/inv/secret", 'params.name == "ſecret"', ""),  # such a path is malformed
        (NAMES, "/inv/ab", 'lower(params.name) == "ab"', "size(params.name) == 2"),
        (NAMES, "/inv/ab", 'params.name like "*b"', 'not (params.name like "*B")'),
        (NAMES, "/inv/ab", 'params.name < "AB"', ""),
        (NAMES, "/inv/7", 'params.name == "8"', ""),
        (LOWER, "/inv/ab", 'body.label == "aB"', ""),
        (TWO, "/inv/ab", 'params.x == "INV" and params.y == "abc"', ""),
        (NAMES, f"/inv/{LONG}", 'params.name == "x"', f'params.name == "{LONG}x"'),
    ],
)
def test_conditions_that_no_spelling_tells_apart_are_proved_equal(head: str, place: str, old: str, new: str) -> None:
    found = diff(head, place, old, new)
    assert not found.differs
    assert found.proved, found.doubts


def test_a_pattern_of_a_long_literal_is_not_proved_equal_without_a_look_at_every_spelling() -> None:
    found = diff(NAMES, f"/inv/{LONG}", 'params.name like "Cust*" and params.name like "*RegIoN"', "")
    assert found.opens or not found.proved


# ── The spellings ─────────────────────────────────────────────────────────────────────────────


def test_other_letters_are_all_characters_of_paths_that_fold_to_literals() -> None:
    others, parts = {}, set()
    for char in map(chr, range(128, sys.maxunicode + 1)):
        folded = fold_case(char)
        if folded == char or paths.find_segment_hazard(f"x{char}x") is not None:
            continue
        if folded.isascii():
            others[char] = folded
        if len(folded) > 1 and (folded[0].isascii() or folded[-1].isascii()):
            parts.add(char)
    assert others == FOREIGN_LETTERS
    assert parts == set(SPLIT_CHARACTERS)


@pytest.mark.parametrize("foreign", [False, True])
def test_spellings_are_all_texts_that_fold_to_a_literal(foreign: bool) -> None:
    chars = "sSiI1x" + "".join(FOREIGN_LETTERS)
    for literal in ("is", "ssi", "1"):
        texts = ("".join(several) for length in range(1, 4) for several in product(chars, repeat=length))
        found = list(spellings(literal, foreign))
        assert sorted(found) == sorted(text for text in texts if fold_case(text) == literal)
        assert found[0].isascii() is not (foreign and literal != "1")


def test_a_pattern_splits_only_characters_at_its_ends() -> None:
    assert {*splitting_texts(k.Segment("as", True, ""))} >= {"aßx"}
    assert {*splitting_texts(k.Segment("", True, "Sx"))} >= {"xßx"}
    assert [*splitting_texts(k.Segment("ab-", True, ".x"))] == []


def test_long_literals_have_more_spellings_than_are_tried() -> None:
    assert 2 ** sum(map(str.isalpha, LONG)) > MAX_SPELLINGS


# ── Generated policies ────────────────────────────────────────────────────────────────────────


def missed_spellings(seed: int) -> list[str]:
    """Return the paths whose answers differ at an endpoint of which the diff tells neither a difference nor a doubt."""
    random = Random(seed)
    pair = [kernel_of_policy(one) for one in spelled_pair(random)]
    old, new = pair
    if old is None or new is None:
        return []
    found = compare(old, new, samples=0)
    patterns = patterns_of(old, new)

    def matches(endpoint: object) -> tuple[bool, ...]:
        return tuple(match_pattern(one, endpoint) is not None for one in patterns)  # type: ignore[arg-type]

    classes = [(matches(one.endpoint), one.words) for one in endpoint_classes(patterns)]
    told = {one.region.endpoint for each in found.differences for one in each.witnesses}
    told |= {one.endpoint for one in found.doubts}
    oracles, result = (PolicyOracle(old), PolicyOracle(new)), []
    for path in spelled_paths():
        question = {"request": {"method": "POST", "path": path}}
        one, other = (oracle.answer(question, MONDAY) for oracle in oracles)
        if one != other:
            wanted = matches(HttpEndpoint("POST", path, tuple(path[1:].split("/"))))
            if not told & {words for matching, words in classes if matching == wanted}:
                result.append(f"{path}: {one} and {other}")
    return result


@scaled
@pytest.mark.parametrize("seed", range(0, 20, 5))
def test_no_difference_at_another_spelling_is_missed(seed: int) -> None:
    for number in range(seed, seed + examples(1, 5)):
        assert missed_spellings(number) == [], f"seed {number}"
