"""Compares roots and proofs with an independent implementation of RFC 6962, and checks that no other proof holds."""

from hashlib import sha256

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.audit.seal.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    leaf_hash,
    root_of_inclusion,
    tree_root,
)
from policyengine.audit.seal.tiles import GrowingTree, TileFolder, tile_name

SIZE = 1_000
ENTRIES = [sha256(b"%d" % number).digest() for number in range(SIZE)]
LEAVES = list(map(leaf_hash, ENTRIES))


@pytest.fixture(scope="module")
def oracle():
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in ENTRIES:
        tree.append_entry(entry)
    return tree


@pytest.fixture(scope="module")
def subtrees(tmp_path_factory):
    tiles = TileFolder(tmp_path_factory.mktemp("tiles"))
    tree = GrowingTree(tiles)
    for at in range(SIZE):
        tree.add([ENTRIES[at]], [LEAVES[at]])
    tree.write_partial_tiles()
    return tiles.subtrees(SIZE)


def test_roots_are_those_of_pymerkle(oracle):
    tree = GrowingTree(None)
    for size in range(1, SIZE + 1):
        tree.add([ENTRIES[size - 1]], [LEAVES[size - 1]])
        assert tree.root() == oracle.get_root(size)


def test_the_empty_tree_has_the_root_of_the_rfc():
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert tree_root(lambda level, index: b"", 0) == EMPTY_ROOT


def test_roots_of_tiles_are_those_of_pymerkle(oracle, subtrees):
    for size in (1, 2, 255, 256, 257, 511, 512, 777, 999, 1_000):
        assert tree_root(subtrees, size) == oracle.get_root(size)


@given(st.data())
def test_an_inclusion_proof_leads_to_the_root_only_from_its_entry(oracle, subtrees, data):
    size = data.draw(st.integers(1, SIZE))
    index = data.draw(st.integers(0, size - 1))
    path, root = inclusion_proof(subtrees, index, size), oracle.get_root(size)
    assert root_of_inclusion(LEAVES[index], index, size, path) == root
    assert root_of_inclusion(leaf_hash(b"other"), index, size, path) != root
    assert root_of_inclusion(LEAVES[index], size, size, path) is None
    assert root_of_inclusion(LEAVES[index], index, size, [*path, root]) is None
    other = data.draw(st.integers(0, size - 1))
    if other != index:
        assert root_of_inclusion(LEAVES[index], other, size, path) != root


@given(st.data())
def test_a_consistency_proof_holds_only_for_its_two_trees(oracle, subtrees, data):
    new = data.draw(st.integers(1, SIZE))
    old = data.draw(st.integers(0, new))
    path = consistency_proof(subtrees, old, new)
    roots = [EMPTY_ROOT if size == 0 else oracle.get_root(size) for size in (old, new)]
    assert is_consistent(old, roots[0], new, roots[1], path)
    if old:
        assert not is_consistent(old, sha256(b"x").digest(), new, roots[1], path)
        assert not is_consistent(old, roots[0], new, sha256(b"x").digest(), path)
    assert not is_consistent(old, roots[0], new, roots[1], [*path, roots[1]])
    assert not is_consistent(new + 1, roots[0], new, roots[1], path)


def test_a_shortened_proof_does_not_hold(oracle, subtrees):
    path = consistency_proof(subtrees, 300, SIZE)
    assert not is_consistent(300, oracle.get_root(300), SIZE, oracle.get_root(SIZE), path[:-1])
    assert root_of_inclusion(LEAVES[300], 300, SIZE, inclusion_proof(subtrees, 300, SIZE)[:-1]) is None


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tile/0/000", (0, 0)),
        ("tile/0/x001/x234/067", (0, 1_234_067)),
        ("tile/1/x001/000.p/17", (1, 1_000, 17)),
        ("tile/entries/255", ("entries", 255)),
    ],
)
def test_tiles_have_the_names_of_the_specification(name, arguments):
    assert tile_name(*arguments) == name


def test_the_tree_of_70000_entries_has_the_tiles_that_the_specification_lists(tmp_path):
    tree = GrowingTree(TileFolder(tmp_path))
    leaves = [LEAVES[at % SIZE] for at in range(70_000)]
    while leaves:
        some, leaves = leaves[: tree.room], leaves[tree.room :]
        tree.add(some, some)
    tree.write_partial_tiles()
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert sum(file.startswith("tile/0/") for file in files) == 274
    assert [file for file in files if file[5] in "12"] == ["tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"]
    assert "tile/0/273.p/112" in files


def test_a_tree_continues_from_its_folder(tmp_path, oracle):
    tiles = TileFolder(tmp_path)
    tree = GrowingTree(tiles)
    tree.add(ENTRIES[:256], LEAVES[:256])
    tree.add(ENTRIES[256:300], LEAVES[256:300])
    tree.write_partial_tiles()
    tree = GrowingTree(tiles, 300)
    tree.add(ENTRIES[300:512], LEAVES[300:512])
    tree.add(ENTRIES[512:600], LEAVES[512:600])
    assert tree.root() == oracle.get_root(600)
    assert not (tmp_path / "tile/0/001.p").exists()
