"""Comparisons that a caller can evade by writing a text differently: paths with `..`, URLs of any scheme."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.lint.dead_limit_conditions import conditions_of_limits
from policyengine.lint.dead_rules import all_blocks, block_conditions
from policyengine.lint.rules.caller_chosen_defaults import wanted_parts
from policyengine.runtime.patterns import compile_regex

WRITTEN_BY_CALLERS = frozenset({"args", "body"})
NAMED_BY_CALLERS = frozenset({("request", "headers"), ("request", "query")})
BELOW_A_FOLDER = re.compile(r"(?:[a-z][a-z0-9+.-]*://[^/*]*/)?[^:]*[^/*:]/[^/]*\*.*", re.DOTALL | re.IGNORECASE)
IN_A_FOLDER = re.compile(r"(?:[a-z][a-z0-9+.-]*://[^/]*/)?[^:]*[^/:]/", re.DOTALL | re.IGNORECASE)
A_FOLDER_ITSELF = re.compile(r"(?:/[^/*]+)+/?")
FOLDER_OF_PATTERN = re.compile(r"[\w-]*(?:/[\w-]+)*/")
ENDING_OF_PATTERN = re.compile(r"(?:[\w-]|\\\.)*\Z")
OUT_OF_A_FOLDER = ("../x", "x/../../x", "x/../x/../../x", "../", "x/../../")
MEDIA_TYPE = re.compile(r"(?:application|audio|font|image|message|model|multipart|text|video)/\*")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\\?:", re.IGNORECASE)


# ── Paths ─────────────────────────────────────────────────────────────────────────────────────


def parent_folders(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W560 for each comparison of a caller's text with a folder that `..` can leave. A text that a rule checks
    for `..` is not reported.
    """
    careful = subjects_compared(kernel, lambda text: ".." in text or r"\.\." in text)
    for condition, wanted in deciding_conditions(kernel):
        for part, wanted_here in wanted_parts(condition, wanted):
            subject = subject_in_folder(part)
            if subject is not None and subject not in careful and is_written_by_caller(subject, condition):
                yield parent_folder_finding(part, subject, wanted_here)


def parent_folder_finding(part: k.Expr, subject: k.Expr, lets_pass: bool) -> Diagnostic:
    written, name = quote_subject(part), quote_subject(subject)
    if lets_pass:
        message = f"`{written}` is also true for a path with `..`, which leads out of the folder"
        return Diagnostic("W560", message, part.span, f'add `and not contains({name}, "..")`')
    message = f"`{written}` is false for a path that reaches the folder through `..`"
    return Diagnostic("W560", message, part.span, f'deny such paths in a guard: `deny when contains({name}, "..")`')


def subject_in_folder(part: k.Expr) -> k.Expr | None:
    """Return the caller's text that this part compares with paths in a folder; None for other parts."""
    match part:
        case k.Relation("like", operand, k.Constant(str() as pattern)) if begins_in_folder(
            pattern
        ) and not MEDIA_TYPE.fullmatch(pattern):
            return subject_of(operand)
        case k.Relation("matches", operand, k.Constant(str() as pattern)) if leaves_its_folder(pattern):
            return subject_of(operand)
        case k.Call("starts_with", (operand, k.Constant(str() as text))) if is_folder(text):
            return subject_of(operand)
        case _:
            return None


def begins_in_folder(pattern: str) -> bool:
    """Return whether a glob begins with a folder. `/srv*` does, like `/srv/*`, because `/srv/../etc` matches both."""
    start, star, _ = pattern.partition("*")
    return BELOW_A_FOLDER.fullmatch(pattern) is not None or bool(star and A_FOLDER_ITSELF.fullmatch(start))


def is_folder(text: str) -> bool:
    return any(shape.fullmatch(text) for shape in (IN_A_FOLDER, A_FOLDER_ITSELF))


def leaves_its_folder(pattern: str) -> bool:
    """Return whether the regular expression begins with a folder and matches a path that leaves it."""
    folder, ending = FOLDER_OF_PATTERN.match(pattern), ENDING_OF_PATTERN.search(pattern)
    if folder is None or not folder[0].strip("/"):
        return False
    last = "" if ending is None else ending[0].replace("\\", "")
    matches = compile_regex(pattern).matches
    return any(matches(f"{folder[0]}{way}{end}") for way in OUT_OF_A_FOLDER for end in dict.fromkeys(("", last)))


# ── URLs ──────────────────────────────────────────────────────────────────────────────────────


def any_scheme(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W561 for each check of a URL's host that accepts any scheme."""
    careful = subjects_compared(kernel, lambda text: SCHEME.match(text) is not None)
    for condition, wanted in deciding_conditions(kernel):
        passing = [part for part, wanted_here in wanted_parts(condition, wanted) if lets_pass(part, wanted_here)]
        for part, url in ((one, url) for one in passing for url in urls_of_hosts(one)):
            subject = subject_of(url)
            if subject is None or subject in careful or not is_written_by_caller(subject, condition):
                continue
            message = f"`{quote_subject(part)}` does not check the scheme: `file:` and `http:` pass like `https:`"
            yield Diagnostic("W561", message, part.span, f'add `and {quote_subject(subject)} like "https://*"`')


def lets_pass(part: k.Expr, wanted: bool) -> bool:
    """Return whether the request passes if the host is one of those in the condition."""
    return (not wanted) if isinstance(part, k.Relation) and part.operator == "!=" else wanted


def urls_of_hosts(part: k.Expr) -> Iterator[k.Expr]:
    match part:
        case k.Relation("==" | "!=", left, right):
            sides: tuple[k.Expr, ...] = (left, right)
        case k.Relation("has" | "holds", _, item):
            sides = (item,)
        case k.Relation(_, operand, k.Constant(str())) if part.row.operands.are_texts:
            sides = (operand,)
        case k.Call("starts_with" | "ends_with", (operand, _)):
            sides = (operand,)
        case _:
            sides = ()
    for expression in (one for side in sides for one in k.walk(side)):
        if isinstance(expression, k.Call) and expression.function == "host":
            yield expression.arguments[0]


# ── What conditions compare ───────────────────────────────────────────────────────────────────


def deciding_conditions(kernel: k.Kernel) -> Iterator[tuple[k.Expr, bool]]:
    """Yield the conditions of grants and guards, each with the value that lets a request pass."""
    for block in all_blocks(kernel):
        yield from ((condition, True) for condition, _ in block_conditions(block))
    for guard in kernel.guards:
        effects = (one for one in guard.effects if isinstance(one, k.Deny | k.Confirm))
        yield from ((one.condition, False) for one in effects if one.condition is not None)


def subjects_compared(kernel: k.Kernel, fits: Callable[[str], bool]) -> frozenset[k.Expr]:
    """Return the caller's texts that a condition compares with a text for which `fits` is true."""
    conditions = [condition for condition, _ in deciding_conditions(kernel)]
    conditions += [condition for _, condition, _ in conditions_of_limits(kernel)]
    return frozenset(
        subject
        for condition in conditions
        for part in k.walk(condition)
        for operand, text in comparisons(part)
        if fits(text) and (subject := subject_of(operand)) is not None
    )


def comparisons(part: k.Expr) -> Iterator[tuple[k.Expr, str]]:
    match part:
        case k.Relation(_, operand, k.Constant(str() as text)) if part.row.operands.are_texts:
            yield operand, text
        case k.Call("starts_with" | "ends_with" | "contains", (operand, k.Constant(str() as text))):
            yield operand, text
        case _:
            pass


def subject_of(operand: k.Expr) -> k.Expr | None:
    """Return the caller's fact or the variable that an operand consists of; None for other operands."""
    match operand:
        case k.Default(inner) | k.DefinitionRef(_, inner) | k.Call("lower" | "upper", (inner,)):
            return subject_of(inner)
        case k.Fact(path) if path[0] in WRITTEN_BY_CALLERS or path[:2] in NAMED_BY_CALLERS:
            return operand
        case k.Member(base) if subject_of(base) is not None:
            return operand
        case k.Variable():
            return operand
        case _:
            return None


def is_written_by_caller(subject: k.Expr, condition: k.Expr) -> bool:
    """Return whether a subject is the caller's text. A variable is the caller's text if its quantifier ranges over such
    texts.
    """
    while isinstance(subject, k.Member):
        subject = subject.base
    if not isinstance(subject, k.Variable):
        return True
    around = [one for one in k.walk(condition) if isinstance(one, k.Quantifier) and one.variable == subject.name]
    return any(isinstance(subject_of(one.domain), k.Fact | k.Member) for one in around)


def quote_subject(part: k.Expr) -> str:
    return " ".join(part.span.text.split())
