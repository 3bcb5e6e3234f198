"""The finder of witnesses: changes facts to make conditions true or false, guided by the structure of the conditions.
The finder may fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from policyengine import kernel as k
from policyengine.solver.witness.editor import DraftEditor
from policyengine.solver.witness.pools import underlying_leaf
from policyengine.solver.witness.relations import ask_text, make_relation
from policyengine.solver.witness.texts import TextQuestion, text_sides
from policyengine.solver.witness.times import candidate_mondays, window_times
from policyengine.solver.witness.values import relation_holds
from policyengine.typesystem import EntityRef


@dataclass(frozen=True, slots=True)
class WitnessFinder:
    """Changes a draft so that a condition is true or false as required, if possible. `gently` keeps parts that already
    have the required value.
    """

    editor: DraftEditor
    gently: bool = False

    def make(self, node: k.Expr, wanted: bool) -> None:
        if self.gently and self.holds(node) is wanted:
            return
        match node:
            case k.DefinitionRef(_, inner):
                self.make(inner, wanted)
            case k.Not(inner):
                self.make(inner, not wanted)
            case k.And(items) | k.Or(items):
                for item in items if wanted == isinstance(node, k.And) else (self.editor.choose.of(items),):
                    self.make(item, wanted)
            case k.Fact() | k.Attribute() | k.Member() | k.Variable() | k.Default():
                self.editor.put(node, wanted)
            case _:
                self._make_atom(node, wanted)

    def _make_atom(self, node: k.Expr, wanted: bool) -> None:
        match node:
            case k.Relation():
                make_relation(self.editor, node, wanted)
            case k.IsPresent(operand):
                self.editor.settle(operand) if wanted else self.editor.remove(operand)
            case k.HasRow(entity):
                self._make_row(self.editor.settle(entity), wanted)
            case k.InWindow(instant, window):
                monday = self.editor.choose.of(candidate_mondays(self.editor.value(instant)))
                self.editor.put_any(instant, window_times(window, monday)[0 if wanted else 1])
            case k.Quantifier():
                self._make_quantifier(node, wanted)
            case k.Call():
                if sides := text_sides(node):
                    ask_text(self.editor, *sides, wanted)
            case _:
                return

    def _make_row(self, ref: object, wanted: bool) -> None:
        if isinstance(ref, EntityRef):
            self.editor.draft.add_row(ref) if wanted else self.editor.draft.remove_row(ref)

    def _make_quantifier(self, node: k.Quantifier, wanted: bool) -> None:
        """Make a quantifier true or false. One element suffices to make `any` true or `all` false; otherwise all
        elements must change.
        """
        editor, settled_by_one = self.editor, wanted == (node.word == "any")
        items, leaf = editor.settle(node.domain), underlying_leaf(node.domain)
        if items == () and settled_by_one and leaf is not None:
            editor.put_any(node.domain, (value for value in editor.pools.values(leaf) if value))
            items = editor.value(node.domain)
        if not isinstance(items, tuple):
            return
        count = 1 if settled_by_one else len(items)
        changed = (*(self._changed_element(node, item, wanted) for item in items[:count]), *items[count:])
        if changed != items:
            editor.put(node.domain, changed)

    def _changed_element(self, node: k.Quantifier, item: object, wanted: bool) -> object:
        variables = self.editor.draft.variables
        outer = dict(variables)
        variables[node.variable] = item
        self.make(node.condition, wanted)
        changed = variables[node.variable]
        variables.clear()
        variables.update(outer)
        return changed

    # ── Conditions that already hold ────────────────────────────────────────────────────────────────────

    def holds(self, node: k.Expr) -> bool | None:
        """Return whether a condition is true or false, or None if a value is unknown or the condition is too
        complex.
        """
        match node:
            case k.DefinitionRef(_, inner):
                return self.holds(inner)
            case k.Not(inner):
                inside = self.holds(inner)
                return None if inside is None else not inside
            case k.And(items) | k.Or(items):
                every, settling = [self.holds(item) for item in items], isinstance(node, k.Or)
                return settling if settling in every else None if None in every else not settling
            case k.Relation():
                return self._relation_holds(node)
            case k.HasRow(entity):
                ref = self.editor.value(entity)
                return self.editor.draft.has_row(ref) if isinstance(ref, EntityRef) else None
            case k.IsPresent(operand):
                return True if self.editor.value(operand) is not None else None
            case k.Fact() | k.Attribute() | k.Member() | k.Variable() | k.Default() | k.Call():
                value = self.editor.value(node)
                return value if isinstance(value, bool) else None
            case _:
                return None

    def _relation_holds(self, node: k.Relation) -> bool | None:
        left, right = self.editor.value(node.left), self.editor.value(node.right)
        if left is None or right is None:
            return None
        match node.row.operands:
            case k.Operands.VALUES:
                return relation_holds(node.row, left, right, node.left.type)
            case k.Operands.PATTERN | k.Operands.STRINGS:
                return TextQuestion(node.operator, right).holds(left)
            case k.Operands.ELEMENT | k.Operands.NETWORKS | k.Operands.COLLECTIONS:
                return node.row.holds(left, right)
            case k.Operands.ENTITIES:
                return None
            case _:
                assert_never(node.row.operands)
