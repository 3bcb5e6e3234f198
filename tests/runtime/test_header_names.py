"""Spellings of header names that some servers take for one."""

from __future__ import annotations

import pytest

from policyengine.runtime.header_names import ambiguous_names, check_spellings, fold_header_name, has_other_spelling
from policyengine.runtime.request import RequestError


@pytest.mark.parametrize("name", ["x-role", "x_role", "x.role", "x role", "x!role", "x~role", "X.Role", "x\xadrole"])
def test_header_names_fold_every_separator_to_a_dash(name: str) -> None:
    assert fold_header_name(name) == "x-role"


@pytest.mark.parametrize("name", ["xrole", "x--role", "x-roles", "x-r-ole"])
def test_different_header_names_are_not_other_spellings(name: str) -> None:
    assert fold_header_name(name) != "x-role"
    assert not has_other_spelling([name], "x-role")


def test_a_header_name_is_not_another_spelling_of_itself() -> None:
    assert not has_other_spelling(["x-role"], "x-role")
    assert has_other_spelling(["x-role", "x.role"], "x-role")
    assert ambiguous_names(["x-role", "x.role", "x_trace"]) == {"x-role", "x.role"}


@pytest.mark.parametrize("name", ["x.agent.id", "x-agent_id", "x_consumer.name", "x.auth.anything", "x_forwarded_port"])
def test_another_spelling_of_a_trusted_header_is_rejected(name: str) -> None:
    with pytest.raises(RequestError, match="another spelling"):
        check_spellings({name: ""}, ["x-agent-id", "x_consumer_name"])


def test_the_exact_spelling_of_a_trusted_header_is_accepted() -> None:
    check_spellings(dict.fromkeys(["x-agent-id", "x_consumer", "x-auth-time", "x_trace"]), ["x-agent-id", "x_consumer"])
    with pytest.raises(RequestError, match="x-consumer"):
        check_spellings({"x-consumer": ""}, ["x_consumer"])
