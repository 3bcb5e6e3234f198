"""Names: each class once, nouns for things, and none that says nothing."""

from __future__ import annotations

from tests.style import names

# Class names that stand more than once, each with its reason.
SHARED_CLASSES = {
    **dict.fromkeys(
        ("Approval", "Credentials", "Decision", "Explanation", "Options", "Question"),
        "the models of `server/openapi/schema.py` are called as clients that are generated from the document call them",
    ),
    "PolicyMiddleware": "each integration has one, imported by the path of its module",
}
SHARED_FUNCTIONS = {
    ("compiler/graph", "render"): "one protocol: a drawing to a format",
    ("integrations/mcp", "always"): "one protocol: `identify=` of a middleware",
    ("integrations/mcp", "by_credentials"): "one protocol: `identify=` of a middleware",
    ("integrations/mcp", "by_token"): "one protocol: `identify=` of a middleware",
    ("reload", "main"): "one protocol: what a process of its own runs",
}
PARTICIPLES = {
    "server/openapi/schema.py: Reported": "a model of the OpenAPI document",
    "server/openapi/schema.py: Observing": "a model of the OpenAPI document",
}
GERUNDS = {"analysis/diff/approval_binding.py": "a binding is a thing"}


def test_class_names_are_unique() -> None:
    assert names.shared_classes().keys() == SHARED_CLASSES.keys()


def test_public_function_names_are_unique_in_their_folder() -> None:
    assert names.shared_functions().keys() == SHARED_FUNCTIONS.keys()


def test_no_name_is_a_banned_word() -> None:
    assert list(names.banned()) == []


def test_no_class_name_is_a_participle() -> None:
    assert sorted(names.participles()) == sorted(PARTICIPLES)


def test_no_module_name_is_a_gerund() -> None:
    assert list(names.gerunds()) == list(GERUNDS)


def test_limit_constants_are_named_max() -> None:
    assert list(names.vague_constants()) == []


def test_loop_variables_have_meaningful_names() -> None:
    assert list(names.vague_loops()) == []
