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


def test_a_class_name_stands_once() -> None:
    assert names.shared_classes().keys() == SHARED_CLASSES.keys()


def test_a_public_function_name_stands_once_in_its_folder() -> None:
    assert names.shared_functions().keys() == SHARED_FUNCTIONS.keys()


def test_no_name_is_a_word_that_says_nothing() -> None:
    assert list(names.banned()) == []


def test_classes_are_named_by_what_they_are() -> None:
    assert sorted(names.participles()) == sorted(PARTICIPLES)


def test_modules_are_named_by_what_is_in_them() -> None:
    assert list(names.gerunds()) == list(GERUNDS)


def test_bounds_are_called_max() -> None:
    assert list(names.vague_constants()) == []


def test_what_a_loop_goes_through_has_a_name() -> None:
    assert list(names.vague_loops()) == []
