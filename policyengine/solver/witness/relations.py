"""Changes that make relations true or false: one function for each kind of operands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, assert_never

from policyengine import kernel as k
from policyengine.solver.witness.addresses import fitting_addresses
from policyengine.solver.witness.draft import is_fixed
from policyengine.solver.witness.editor import DraftEditor
from policyengine.solver.witness.pools import underlying_leaf
from policyengine.solver.witness.texts import TextQuestion, sample_texts
from policyengine.solver.witness.values import SAMPLE_IDS, relation_holds
from policyengine.typesystem import EntityRef

Items = Sequence[Any]


def make_relation(editor: DraftEditor, node: k.Relation, wanted: bool) -> None:
    """Change the draft to make a relation true or false."""
    row, left, right = node.row, node.left, node.right
    match row.operands:
        case k.Operands.VALUES:
            compare(editor, row, left, right, wanted)
        case k.Operands.ELEMENT:
            contain(editor, left, right, wanted)
        case k.Operands.ENTITIES:
            place(editor, node, wanted)
        case k.Operands.NETWORKS:
            editor.put_any(left, fitting_addresses(editor.value(right), wanted))
        case k.Operands.PATTERN | k.Operands.STRINGS:
            ask_text(editor, row.operator, left, right, wanted)
        case k.Operands.COLLECTIONS:
            relate_collections(editor, row, left, right, wanted)
        case _:
            assert_never(row.operands)


# ── Values and texts ──────────────────────────────────────────────────────────────────────────


def compare(editor: DraftEditor, row: k.RelationRow, left: k.Expr, right: k.Expr, wanted: bool) -> None:
    """Change one side to fit the other, usually the left side if both can change."""
    sides = [(left, right, False), (right, left, True)]
    if is_fixed(left) or editor.choose.chance(4):
        sides.reverse()
    for side, other, mirrored in sides:
        value = editor.settle(other)
        if value is None or underlying_leaf(side) is None:
            continue
        editor.settle(side)
        fitting = [
            one
            for one in editor.candidates(side, value)
            if relation_holds(row, *((value, one) if mirrored else (one, value)), side.type) is wanted
        ]
        if editor.put_any(side, fitting):
            return


def ask_text(editor: DraftEditor, name: str, left: k.Expr, right: k.Expr, wanted: bool) -> None:
    """Give the left side a string for which the question `name` about the right side has the required answer."""
    text, leaf = editor.settle(right), underlying_leaf(left)
    if isinstance(text, str):
        question = TextQuestion(name, text)
        pool = [one for one in (() if leaf is None else editor.pools.values(leaf)) if isinstance(one, str)]
        fitting = [one for one in pool if question.holds(one) is wanted]
        editor.put_any(left, (*sample_texts(question, wanted), *fitting))


# ── Elements ──────────────────────────────────────────────────────────────────────────────────


def contain(editor: DraftEditor, collection: k.Expr, item: k.Expr, wanted: bool) -> None:
    """Change the collection, or the item if the collection cannot change, so that the collection contains the item or,
    if `wanted` is false, does not.
    """
    if not wanted and editor.value(collection) is None and is_empty_by_default(collection):
        editor.remove(collection)
        return
    element = editor.settle(item)
    held = editor.value(collection) or ()
    if element is not None and underlying_leaf(collection) is not None:
        changed = with_element(held, element) if wanted else tuple(one for one in held if one != element)
        if editor.put(collection, changed):
            if not wanted and isinstance(element, EntityRef):
                editor.draft.add_row(element)  # without a row, membership is unknown
            return
    leaf = underlying_leaf(item)
    if leaf is not None:
        editor.put_any(item, held if wanted else [one for one in editor.pools.values(leaf) if one not in held])


def with_element(held: Items, element: Any) -> tuple[Any, ...]:
    return tuple(held) if element in held else (*held, element)


def is_empty_by_default(collection: k.Expr) -> bool:
    """Return whether the set is empty in rows that lack it: `inherited else []`."""
    return isinstance(collection, k.Attribute) and any(empty for _, empty in collection.levels)


def place(editor: DraftEditor, node: k.Relation, wanted: bool) -> None:
    """Put an entity into another entity, or take it out. An entity is always in itself, and no row changes that."""
    lower, upper = editor.settle(node.left), editor.settle(node.right)
    if lower == upper and isinstance(lower, EntityRef) and wanted is not (node.operator == "in"):
        editor.put_any(node.left, [EntityRef(lower.type, id_) for id_ in SAMPLE_IDS if id_ != lower.id])
        lower = editor.value(node.left)
    if not isinstance(lower, EntityRef) or not isinstance(upper, EntityRef):
        return
    for ref in (lower, upper):  # without a row, membership is unknown
        editor.draft.add_row(ref)
    if not wanted:
        editor.draft.remove_parent(lower, upper)
    elif lower != upper:
        editor.draft.add_parent(lower, upper)


# ── Collections ───────────────────────────────────────────────────────────────────────────────


def relate_collections(editor: DraftEditor, row: k.RelationRow, left: k.Expr, right: k.Expr, wanted: bool) -> None:
    """Change one side so that the relation is true or false as required; an empty side may need an element first."""
    if change_collection(editor, row, left, right, wanted):
        return
    for side in (left, right):
        if editor.value(side) == () and editor.put(side, tuple(allowed_elements(editor, side)[:1])):
            change_collection(editor, row, left, right, wanted)
            return


def change_collection(editor: DraftEditor, row: k.RelationRow, left: k.Expr, right: k.Expr, wanted: bool) -> bool:
    """Change one side so that the relation is true or false as required, and return whether this was possible. Growing
    is tried before shrinking, because other conditions may have filled the side.
    """
    for side, other, choice in collection_choices(editor, left, right):
        pair = (choice, other) if side is left else (other, choice)
        if row.holds(*pair) is wanted and editor.put(side, choice):
            return True
    return False


def collection_choices(editor: DraftEditor, left: k.Expr, right: k.Expr) -> Iterator[tuple[k.Expr, Items, Items]]:
    """Yield a side, the elements of the other side, and possible new elements of this side."""
    for choices in (larger_versions, smaller_versions):
        for side, other in ((left, right), (right, left)):
            held = editor.settle(other)
            if underlying_leaf(side) is not None and isinstance(held, tuple):
                own = editor.value(side) or ()
                yield from ((side, held, choice) for choice in choices(own, held, allowed_elements(editor, side, held)))


def allowed_elements(editor: DraftEditor, side: k.Expr, others: Items = ()) -> list[Any]:
    """Return elements that a side may contain, those of the other side first."""
    forbidden = editor.forbidden.get(side, ())
    return [one for one in (*others, *editor.elements(side)) if one not in forbidden]


def larger_versions(own: Items, other: Items, allowed: Items) -> Iterator[Items]:
    """Yield larger versions of this side: its own elements, with one element of the other side, with all elements of
    the other side, and with an element that the other side lacks.
    """
    common = [one for one in allowed if one in other and one not in own]
    strange = [one for one in allowed if one not in other]
    yield from ((*own, *more) for more in ((), common[:1], common, strange[:1]))


def smaller_versions(own: Items, other: Items, allowed: Items) -> Iterator[Items]:
    """Yield smaller versions of this side: the common elements, the elements that only this side has, a single element,
    an element that the other side lacks, and none.
    """
    yield tuple(one for one in own if one in other)
    yield tuple(one for one in own if one not in other)
    yield from (tuple(allowed[:1]), tuple(one for one in allowed if one not in other)[:1], ())
