"""Whether one policy binds approvals to no less than another, by the words of remedies."""

from __future__ import annotations

import pytest

from policyengine.analysis.diff.approval_binding import binds_no_less


@pytest.mark.parametrize(
    ("items", "others", "no_less"),
    [
        (["body"], ["body"], True),
        (["body"], ["body except body.id"], True),
        (["body except body.id"], ["body"], False),
        (["body except body.id"], ["body except body.id, body.trace"], True),
        (["body except body.id, body.trace"], ["body except body.id"], False),
        (["body except body.a.b"], ["body except body.a"], True),
        (["body except body.a"], ["body except body.a.b"], False),
        (["body"], ["body.amount"], True),
        (["body except body.id"], ["body.amount"], True),
        (["body except body.id"], ["body.id"], False),
        (["body except body.a.b"], ["body.a"], False),
        (["body except body.a"], ["body.a.b"], False),
        (["body.amount"], ["body"], False),
        (["body.amount"], ["body.amount"], True),
        (["body.am"], ["body.amount"], False),
        (["body"], ["body", "request.query"], False),
        (["request.query", "body"], ["body", "request.query"], True),
        (["body"], ["resource"], True),
        (["resource"], ["resource"], True),
        (["resource"], ["body"], False),
        (['request.query except request.query["a except b, c"]'], ['request.query["x"]'], True),
        (['request.query except request.query["a except b, c"]'], ['request.query["a except b, c"]'], False),
        (['body except body["a\\"] except b"]'], ['body["a\\"] except b"]'], False),
        (["args", "body", "request.host", "request.query"], ["body except body.id"], True),
    ],
)
def test_binds_no_less_compares_what_approvals_are_bound_to(items: list[str], others: list[str], no_less: bool) -> None:
    assert binds_no_less(items, others) is no_less
