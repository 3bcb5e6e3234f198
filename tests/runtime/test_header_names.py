"""Spellings of header names that some servers take for one."""

from __future__ import annotations

import pytest

from policyengine.runtime.header_names import ambiguous_names, check_spellings, fold_header_name, has_other_spelling
from policyengine.runtime.request import RequestError


@pytest.mark.parametrize("name", ["x-role", "x_role", "x.role", "x role", "x!role", "x~role", "X.Role", "x\xadrole"])
def test_all_but_letters_and_digits_is_a_dash_to_some_server(name: str) -> None:
    assert fold_header_name(name) == "x-role"


@pytest.mark.parametrize("name", ["xrole", "x--role", "x-roles", "x-r-ole"])
def test_other_names_are_other_headers(name: str) -> None:
    assert fold_header_name(name) != "x-role"
    assert not has_other_spelling([name], "x-role")


def test_a_name_is_no_other_spelling_of_itself() -> None:
    assert not has_other_spelling(["x-role"], "x-role")
    assert has_other_spelling(["x-role", "x.role"], "x-role")
    assert ambiguous_names(["x-role", "x.role", "x_trace"]) == {"x-role", "x.role"}


@pytest.mark.parametrize("name", ["x.agent.id", "x-agent_id", "x_consumer.name", "x.auth.anything", "x_forwarded_port"])
def test_another_spelling_of_what_is_trusted_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="another spelling"):
        check_spellings({name: ""}, ["x-agent-id", "x_consumer_name"])


def test_the_name_itself_is_none_whatever_is_in_it() -> None:
    check_spellings(dict.fromkeys(["x-agent-id", "x_consumer", "x-auth-time", "x_trace"]), ["x-agent-id", "x_consumer"])
    with pytest.raises(RequestError, match="x-consumer"):
        check_spellings({"x-consumer": ""}, ["x_consumer"])
