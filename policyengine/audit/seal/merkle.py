"""The Merkle tree of RFC 6962, section 2.1: hashes, inclusion proofs, consistency proofs, and their verification.

The proof functions read the hashes of complete subtrees through `Subtrees`, so that a proof needs only a few reads,
even in a large tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TypeAlias

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
Subtrees: TypeAlias = Callable[[int, int], bytes]
"""The hash of the complete subtree at a level and index: it covers the entries `index << level` to
`(index + 1) << level`."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry, 32 bytes."""
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node over two subtrees, 32 bytes."""
    return sha256(b"\1" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """Return the root over hashes of sibling subtrees, whose number is a power of two."""
    while len(hashes) > 1:
        hashes = [sha256(b"\1" + left + right).digest() for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


def complete_subtrees(start: int, end: int) -> list[tuple[int, int]]:
    """Return the level and index of the complete subtrees that cover the entries from `start` to before `end`, from
    left to right. `start` must be a multiple of the size of the largest subtree, as in every proof.
    """
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append((level, start >> level))
        start += 1 << level
    return found


def join(hashes: Sequence[bytes]) -> bytes:
    """Return the root over subtrees of decreasing size, in the order of `complete_subtrees`."""
    root = hashes[-1]
    for left in hashes[-2::-1]:
        root = node_hash(left, root)
    return root


def range_hash(subtrees: Subtrees, start: int, end: int) -> bytes:
    """Return the tree hash of the entries from `start` to before `end`, MTH(D[start:end]). `start < end`."""
    return join([subtrees(level, index) for level, index in complete_subtrees(start, end)])


def tree_root(subtrees: Subtrees, size: int) -> bytes:
    """Return the root of the tree of the first `size` entries."""
    return range_hash(subtrees, 0, size) if size else EMPTY_ROOT


def split(size: int) -> int:
    """Return the largest power of two that is less than `size`. `size > 1`."""
    return 1 << ((size - 1).bit_length() - 1)


# ── Proofs ────────────────────────────────────────────────────────────────────────────────────


def inclusion_proof(subtrees: Subtrees, index: int, size: int) -> list[bytes]:
    """Return the inclusion proof of an entry in the tree of `size` entries: the hashes from the entry's sibling up to
    the child of the root.
    """
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + split(end - start)
        if index < middle:
            path.append(range_hash(subtrees, middle, end))
            end = middle
        else:
            path.append(range_hash(subtrees, start, middle))
            start = middle
    return path[::-1]


def consistency_proof(subtrees: Subtrees, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of `new` entries begins with the tree of `old` entries. It is empty if
    `old` is 0.
    """
    if old in (0, new):
        return []
    path, start, end, whole = [], 0, new, True
    while old != end:
        middle = start + split(end - start)
        if old <= middle:
            path.append(range_hash(subtrees, middle, end))
            end = middle
        else:
            path.append(range_hash(subtrees, start, middle))
            start, whole = middle, False
    if not whole:
        path.append(range_hash(subtrees, start, end))
    return path[::-1]


def root_of_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that an inclusion proof leads to, or None if the proof has the wrong length (RFC 9162, section
    2.1.3.2)."""
    if not 0 <= index < size:
        return None
    node, last, root = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        node, last = node >> 1, last >> 1
    return root if last == 0 else None


def roots_of_consistency(old: int, new: int, old_root: bytes, path: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Return the roots of both trees that a consistency proof leads to, or None if the proof has the wrong length (RFC
    9162, section 2.1.4.2). `0 < old < new`."""
    steps = list(path)
    if old & (old - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        return None
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first = second = steps[0]
    for sibling in steps[1:]:
        if last == 0:
            return None
        if node & 1 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        node, last = node >> 1, last >> 1
    return (first, second) if last == 0 else None


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Return whether the proof shows that the new tree begins with the old tree."""
    if old > new or (old in (0, new) and path):
        return False
    if old == 0:
        return old_root == EMPTY_ROOT
    if old == new:
        return old_root == new_root
    return roots_of_consistency(old, new, old_root, path) == (old_root, new_root)
