"""Letter case: paths that differ only in case, and conditions that a path in another case bypasses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.lint.dead_rules import all_blocks
from policyengine.runtime.letter_case import fold_case, has_letters
from policyengine.spec.path_texts import is_path_text

Parts = tuple[tuple[str, bool, str], ...]  # prefix, wildcard and suffix of each segment of a path


# ── Two spellings of a path ───────────────────────────────────────────────────────────────────


def paths_differing_in_case(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W323 for the first endpoint whose path differs from an earlier path only in case, once for each path
    prefix.
    """
    first: dict[Parts, tuple[Parts, k.HttpPattern]] = {}
    told: set[Parts] = set()
    for pattern in patterns_of(kernel):
        written: Parts = ()
        for segment in pattern.segments:
            written = (*written, (segment.prefix, segment.wild, segment.suffix))
            key = tuple((fold_case(before), wild, fold_case(after)) for before, wild, after in written)
            spelled, other = first.setdefault(key, (written, pattern))
            if spelled == written:
                continue
            if key not in told and "ascii" not in (pattern.folding, other.folding):
                yield case_finding(pattern, other)
            told.add(key)
            break  # then the rest of the path differs as well


def case_finding(pattern: k.HttpPattern, other: k.HttpPattern) -> Diagnostic:
    one, two = (" ".join(each.span.text.split()) for each in (pattern, other))
    message = f"`{one}` and `{two}` differ in case: grants distinguish them, guards and limits do not"
    hint = "write both in one case, or `paths ignore case` if the server treats them as the same path"
    return Diagnostic("W323", message, pattern.span, hint, (RelatedLocation("the other one", other.span),))


def patterns_of(kernel: k.Kernel) -> Iterator[k.HttpPattern]:
    """Yield the HTTP patterns of all rules. The patterns of grants come first, because their spelling is the one that
    matches.
    """
    opened = (opening.pattern for block in all_blocks(kernel) for one in block.grants for opening in one.openings)
    places = [one.place for one in (*kernel.guards, *kernel.limits)]
    others = (pattern for place in places for pattern in (*(place.patterns or ()), *place.excepts))
    found: dict[k.Pattern, None] = dict.fromkeys((*opened, *others))
    yield from (one for one in found if isinstance(one, k.HttpPattern))


# ── Conditions that depend on case ──────────────────────────────────────────────────────────────


def case_sensitive_conditions(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W558 for each condition that restricts one spelling of a path text, but not the same text in
    another case.
    """
    for guard in kernel.guards:
        for effect in guard.effects:
            if effect.condition is not None:
                yield from case_sensitive_findings(effect.condition, f"guard `{guard.name}`")
    for limit in kernel.limits:
        if limit.when is not None:
            yield from case_sensitive_findings(limit.when, f"`{limit.name}`")


def case_sensitive_findings(condition: k.Expr, what: str) -> Iterator[Diagnostic]:
    for part in parts_compared_with_path(condition, True):
        text = " ".join(part.span.text.split())
        message = f"a path in another case bypasses {what}: `{text}` is case-sensitive, but the server may not be"
        hint = "name the path after `on`, which matches any case, or compare the text in lower case: `lower(…)`"
        yield Diagnostic("W558", message, part.span, hint)


def parts_compared_with_path(expression: k.Expr, wanted: bool) -> Iterator[k.Expr]:
    """Yield the parts that make a condition `wanted` when a text of the path equals a literal."""
    match expression:
        case k.Not(operand):
            yield from parts_compared_with_path(operand, not wanted)
        case k.DefinitionRef(_, inner):
            yield from parts_compared_with_path(inner, wanted)
        case k.And(items) | k.Or(items):
            for item in items:
                yield from parts_compared_with_path(item, wanted)
        case k.Relation("==" | "!=" as operator, left, right) if wanted is (operator == "=="):
            sides = ((left, right), (right, left))
            yield from (expression for one, other in sides if is_path_text(one) and any(map(has_letters, texts(other))))
        case k.Relation("has" | "holds", collection, item) if (
            wanted and is_path_text(item) and any(map(has_letters, texts(collection)))
        ):
            yield expression
        case k.Relation("like" | "matches", operand, k.Constant(str() as pattern)) if (
            wanted and is_path_text(operand) and has_letters(pattern)
        ):
            yield expression
        case k.Call("starts_with" | "ends_with" | "contains", (text, part)) if wanted and is_path_text(text):
            if any(map(has_letters, texts(part))):
                yield expression
        case _:
            pass


def texts(expression: k.Expr) -> Iterable[str]:
    match expression:
        case k.Constant(str() as text):
            return (text,)
        case k.Constant(tuple() as several):
            return tuple(one for one in several if isinstance(one, str))
        case k.Collection(items):
            return tuple(text for item in items for text in texts(item))
        case _:
            return ()
