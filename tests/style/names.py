"""Names of the package, read from its source: modules, classes, functions, constants and loop variables."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import policyengine
from policyengine.gc_pause import gc_paused

ROOT = Path(policyengine.__file__).parent
TREES = (
    "syntax/nodes/",
    "kernel/",
    "compiler/",
    "evaluator/",
)  # AST, kernel and program: one notion may have one name in each
# What the evaluator of another issue replaces keeps its names until then; its bundle and its drawing stay.
EXEMPT = "compiler/"
NOT_EXEMPT = ("compiler/bundle/", "compiler/description/", "compiler/graph/")
BANNED = set("told said found seen kept asked made given one who what plain quick tame again apart hands once".split())
# Irregular participles that class names ended in; regular ones end in `ed` and `ing`.
PARTICIPLES = (
    "Told Said Found Seen Kept Made Given Known Shown Held Written Read Sent Lent Taken Drawn Spent Chosen Left Meant "
    "Bound"
).split()


@cache
@gc_paused()  # the million nodes stay alive: collections among them take longer than parsing
def modules() -> dict[str, ast.Module]:
    """Every module by its path below the package, as `spec/gates.py`."""
    paths = sorted(ROOT.rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in paths}


def is_exempt(module: str) -> bool:
    return module.startswith(EXEMPT) and not module.startswith(NOT_EXEMPT)


def tree_of(module: str) -> str:
    """The tree that a module belongs to, or the module itself."""
    return next((tree for tree in TREES if module.startswith(tree)), module)


@cache
def nodes() -> dict[str, list[ast.AST]]:
    """Every node of every module: to walk a tree takes longer than to look through it."""
    return {module: list(ast.walk(tree)) for module, tree in modules().items()}


@cache
def classes() -> list[tuple[str, str]]:
    """Module and name of every class, nested ones too."""
    return [(module, node.name) for module in modules() for node in nodes()[module] if isinstance(node, ast.ClassDef)]


def functions() -> Iterator[tuple[str, str]]:
    """Module and name of every public function of a module."""
    for module, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                yield module, node.name


def shared_classes() -> dict[str, list[str]]:
    """Names of more than one class, with their modules, unless it is one concept in several trees."""
    homes = defaultdict(list)
    for module, name in classes():
        homes[name].append(module)
    return {name: where for name, where in homes.items() if _is_shared(where)}


def _is_shared(where: list[str]) -> bool:
    trees = [tree_of(module) for module in where]
    outside = [tree for tree in trees if tree not in TREES]
    return len(where) > 1 and (bool(outside) or len(set(trees)) < len(trees)) and not all(map(is_exempt, where))


def shared_functions() -> dict[tuple[str, str], list[str]]:
    """Public functions of one name in several modules of one folder."""
    homes = defaultdict(list)
    for module, name in functions():
        homes[module.rpartition("/")[0], name].append(module)
    return {key: where for key, where in homes.items() if len(where) > 1 and key[0] and not all(map(is_exempt, where))}


def banned() -> Iterator[str]:
    """Modules, classes and public functions whose name is a banned word alone."""
    for module in modules():
        if module.rpartition("/")[2].removesuffix(".py") in BANNED and not is_exempt(module):
            yield module
    for module, name in [*classes(), *functions()]:
        if name.lower() in BANNED and not is_exempt(module):
            yield f"{module}: {name}"


def gerunds() -> Iterator[str]:
    """Modules named after an activity. Folders may be: `testing/` holds more than one thing."""
    yield from (module for module in modules() if module.endswith("ing.py") and not is_exempt(module))


def participles() -> Iterator[str]:
    """Classes named after what was done to something, where a noun says what the thing is."""
    for module, name in classes():
        last = name[max((i for i, char in enumerate(name) if char.isupper()), default=0) :]
        is_participle = last in PARTICIPLES or (last.endswith(("ed", "ing")) and len(last) > 4)
        if is_participle and not is_exempt(module):
            yield f"{module}: {name}"


def vague_constants() -> Iterator[str]:
    for module in modules():
        for node in nodes()[module]:
            if isinstance(node, ast.Name) and node.id.startswith(("MOST_", "LONGEST_")) and not is_exempt(module):
                yield f"{module}: {node.id}"


def vague_loops() -> Iterator[str]:
    """`for one in …:` and `for found in …:` as statements."""
    for module in modules():
        for node in nodes()[module]:
            is_loop = isinstance(node, ast.For | ast.AsyncFor) and isinstance(node.target, ast.Name)
            if is_loop and node.target.id in ("one", "found") and not is_exempt(module):
                yield f"{module}:{node.lineno}"
