"""Large drawings are folded: never more boxes than people can read, and every box that is left out is counted."""

import time
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.compiler.graph.box import Box, BoxKind
from policyengine.compiler.graph.collapse import MAX_BOXES, collapse
from policyengine.compiler.graph.draw import draw
from policyengine.compiler.tree import tree_of
from policyengine.engine import Engine
from policyengine.kernel import Kernel

HEAD = 'issuer idp { url "https://login.example" scopes none }\nusers unrestricted\n'


def many_rules(count: int) -> str:
    """Services with two scopes each, agents with four doors each, guards of their own; about `count` rules."""
    services = count // 5
    lines = [HEAD, "anyone { may GET /health }"]
    for number in range(services):
        path = f"/svc{number}/items"
        lines += [
            f'scope s{number}.read as "read:{number}" {{ GET {path} GET {path}/{{id}} }}',
            f'scope s{number}.write as "write:{number}" {{ POST|PUT {path}/{{id}} DELETE {path}/{{id}}/parts/* }}',
        ]
    for number in range(count // 4):
        who = f'group "team{number}"' if number % 20 == 0 else f'"bot{number}"'
        doors = (
            f"may s{(number * 7 + door * 13) % services}.{'read' if door % 2 else 'write'}"
            f" when request.size < {100 + (number + door) % 5}"
            for door in range(4)
        )
        lines.append(f"agent {who} {{ issued by idp acts alone {' '.join(doors)} }}")
    for number in range(count // 20):
        lines.append(f'guard "admin {number}" on DELETE /admin/x{number}/** {{ require attestation.verified }}')
    lines.append(f'guard "shared" on {", ".join(f"/logs/x{n}/**" for n in range(count // 20))} {{ audit full }}')
    return "\n".join(lines)


@dataclass(frozen=True)
class Drawn:
    """A large policy drawn; `took` is the processor's time in seconds from the kernel to the folded drawing."""

    rules: int
    kernel: Kernel
    root: Box
    box: Box
    took: float


@pytest.fixture(scope="module", params=[2_000, pytest.param(10_000, marks=pytest.mark.deep)])
def large(request) -> Drawn:
    kernel = Engine.from_text(many_rules(request.param)).kernel
    began = time.process_time()
    root = draw(kernel, tree_of(kernel))
    box = collapse(root)
    return Drawn(request.param, kernel, root, box, time.process_time() - began)


def left_out(root: Box) -> int:
    return sum(box.hidden for box in root.walk())


def unfolded_size(root: Box) -> int:
    """Boxes for what is left out are none of the tree."""
    return sum(1 for box in root.walk() if box.kind is not BoxKind.MORE) + left_out(root)


def leaf(label: str, kind: BoxKind = BoxKind.MAY) -> Box:
    return Box(kind, label, at="p.policy:1")


def flat(count: int, kind: BoxKind = BoxKind.PATH) -> Box:
    return Box(BoxKind.POLICY, "p", children=tuple(leaf(f"/{number}", kind) for number in range(count)))


# ── Thousands of rules ─────────────────────────────────────────────────────────────────────────


def test_thousands_of_rules_are_legible_and_quickly_drawn(large):
    assert large.root.size > 5 * large.rules
    assert large.box.size <= MAX_BOXES
    assert unfolded_size(large.box) == large.root.size
    assert large.took < large.rules / 2_000  # twice and more what a machine needs that has other things to do


def test_folded_boxes_describe_their_contents(large):
    told = [part for part in large.box.walk() if part.kind is BoxKind.MORE]
    assert any("more paths: /svc" in part.label and part.detail.endswith(" rules") for part in told)
    assert all(part.hidden for part in told)
    assert f"{large.box.size:,} boxes drawn, {left_out(large.box):,} folded" in large.box.detail


def test_a_folded_tree_shows_at_least_one_grant_completely(large):
    assert any(part.kind is BoxKind.MAY for part in large.box.walk())


def test_hundreds_of_paths_with_the_same_guard_are_one_box(large):
    count = large.rules // 20
    assert f"{count} paths alike: /x0 … /x{count - 1}" in [part.label for part in large.box.walk()]


def test_the_same_tree_is_folded_the_same_way(large):
    assert collapse(large.root) == large.box


# ── Folding ───────────────────────────────────────────────────────────────────────────────────


def test_a_drawing_that_is_small_enough_stays_as_it_is():
    assert collapse(flat(MAX_BOXES - 1)) == flat(MAX_BOXES - 1)


def test_everything_is_drawn_when_it_is_wanted_whole():
    assert collapse(flat(5_000), whole=True) == flat(5_000)


def test_depth_folds_deeper_levels():
    root = Box(BoxKind.POLICY, "p", children=(Box(BoxKind.PATH, "/a", children=(leaf("may x"), leaf("may y"))),))
    (path,) = collapse(root, 1).children
    assert (path.detail, path.hidden, path.children) == ("2 rules below", 2, ())


def test_a_rule_at_many_places_is_counted_once():
    place = Box(BoxKind.PATH, "/a", children=(leaf("may x"), leaf("may x")))
    assert collapse(Box(BoxKind.POLICY, "p", children=(place,)), 1).children[0].detail == "1 rule below"


def test_a_thousand_agents_do_not_hide_the_one_guard():
    agents = tuple(Box(BoxKind.AGENT, f"a{n}", children=(leaf(f"may {n}"),)) for n in range(1_000))
    guard = Box(BoxKind.GUARD, "g", children=(leaf("deny", BoxKind.DENY),))
    drawn = collapse(Box(BoxKind.ENDPOINT, "e", children=(*agents, guard)))
    assert guard in drawn.children


def test_siblings_with_the_same_rules_below_are_one_box_where_the_first_stood():
    alike = tuple(Box(BoxKind.AGENT, f"a{n}", children=(leaf("may x"),)) for n in range(MAX_BOXES))
    other = Box(BoxKind.AGENT, "b", children=(leaf("may y"),))
    drawn = collapse(Box(BoxKind.ENDPOINT, "e", children=(*alike, other)))
    assert [box.label for box in drawn.children] == [f"{MAX_BOXES} agents alike: a0 … a{MAX_BOXES - 1}", "b"]
    assert drawn.children[0].children == (leaf("may x"),)
    assert unfolded_size(drawn) == 2 * MAX_BOXES + 3


def test_siblings_that_differ_further_down_are_not_alike():
    def path(number: int, rule: str) -> Box:
        return Box(BoxKind.PATH, f"/{number}", children=(Box(BoxKind.METHOD, "GET", children=(leaf(rule),)),))

    root = Box(BoxKind.POLICY, "p", children=tuple(path(n, f"may {n}") for n in range(MAX_BOXES)))
    assert not any("alike" in box.label for box in collapse(root).walk())


BOXES = st.recursive(
    st.builds(Box, st.sampled_from([BoxKind.MAY, BoxKind.DENY]), st.sampled_from("xyz")),
    lambda inner: st.builds(
        lambda kind, label, children, times: Box(kind, label, children=tuple(children) * times),
        st.sampled_from([BoxKind.PATH, BoxKind.METHOD, BoxKind.AGENT]),
        st.sampled_from("abc"),
        st.lists(inner, max_size=5),
        st.sampled_from([1, 1, 7, 40]),
    ),
    max_leaves=12,
)


@given(BOXES, st.none() | st.integers(1, 4), st.booleans())
def test_no_box_is_lost_however_it_is_folded(root, depth, whole):
    drawn = collapse(root, depth, whole=whole)
    assert unfolded_size(drawn) == root.size
    assert whole or drawn.size <= MAX_BOXES
