"""What a task bounds: tools and things, by whoever asks with it; and where it is left to guards."""

import pytest

from tests.spec.deciding import bot, chain, codes, decide, gates, hop, kernel, question, unknown, verdict

POLICY = """
entity invoice { tenant: string }
entity doc { } in doc
facts on TOOL billing/refund { args.id: string }
scope refunds { TOOL billing/refund with resource = invoice(args.id) }
issuer acme { scopes none  records chains }
user any { may TOOL *, GET /invoices/{id: invoice}, ACTION view doc, GET /health, refunds }
agent "bot" {
  issued by acme   acts for any user
  may TOOL *, GET /invoices/{id: invoice}, ACTION view doc, GET /health, refunds
}
anyone { may GET /open/{id: invoice}, TOOL public/* }
"""
INVOICE, OTHER = {"type": "invoice", "id": "42"}, {"type": "invoice", "id": "43"}


def asked(where: str, task: object, **more: object) -> dict[str, object]:
    return question(where, **bot(), **({} if task is None else {"task": task}), **more)


def found(where: str, task: object, policy: str = POLICY, **more: object) -> str:
    return verdict(decide(policy, asked(where, task, **more)))


@pytest.mark.parametrize(
    ("where", "tools", "came"),
    [
        ("TOOL fs/write", ["fs/read"], "deny by task"),
        ("TOOL fs/read", ["fs/read"], "allow"),
        ("TOOL fs/read", ["read"], "allow"),  # at any server
        ("TOOL web/read", ["read"], "allow"),
        ("TOOL web/read", ["fs/read"], "deny by task"),
        ("TOOL read", ["read"], "allow"),
        ("TOOL read", ["fs/read"], "deny by task"),
        ("TOOL fs/read", ["fs"], "deny by task"),
        ("TOOL fs/read", ["FS/READ"], "deny by task"),
        ("TOOL fs/read", ["*"], "deny by task"),  # no name is a pattern
        ("TOOL fs/read", ["fs/*"], "deny by task"),
        ("TOOL fs/read", [], "deny by task"),  # empty bounds everything
        ("TOOL fs/read", None, "allow"),  # absent nothing
        ("TOOL fs/read", "fs/read", "deny by task"),  # unknown never opens
        ("TOOL fs/read", {"fs/read": True}, "deny by task"),
        ("TOOL fs/read", [7], "deny by task"),
        ("TOOL fs/read", [7, "fs/read"], "allow"),
        ("GET /health", [], "allow"),
        ("GET /invoices/42", [], "allow"),
        ("ACTION view doc 7", [], "allow"),
        ("TOOL public/x", [], "allow"),  # open to anyone, without this credential too
    ],
)
def test_task_tools_restrict_tool_calls(where: str, tools: object, came: str):
    assert found(where, {"id": "t", "tools": tools}) == came


def test_a_tool_name_with_a_slash_must_be_qualified_in_task_tools():
    one = {**asked("TOOL a/b", {"tools": ["a/b"]}), "tool": {"server": "x", "name": "a/b"}}
    assert verdict(decide(POLICY, one)) == "deny by task"
    assert verdict(decide(POLICY, {**one, "task": {"tools": ["x/a/b"]}})) == "allow"


@pytest.mark.parametrize(
    ("entities", "came"),
    [
        ([INVOICE], "allow"),
        ([OTHER], "deny by task"),
        ([OTHER, INVOICE], "allow"),
        ([{"type": "doc", "id": "42"}], "deny by task"),
        ([{"type": "ticket", "id": "7"}, INVOICE], "allow"),  # of another service
        ([{"type": "ticket", "id": "42"}], "deny by task"),
        (["42"], "deny by task"),  # of which type is not said
        (["invoice/42"], "deny by task"),
        ([], "deny by task"),
        (None, "allow"),
        (INVOICE, "deny by task"),
        ("42", "deny by task"),
        ([None], "deny by task"),
        ([{**INVOICE, "more": 1}], "deny by task"),
    ],
)
def test_task_entities_restrict_resources_by_type_and_id(entities: object, came: str):
    task = {"id": "t", "entities": entities}
    assert found("GET /invoices/42", task) == came
    assert found("TOOL billing/refund", task, args={"id": "42"}) == came
    assert found("GET /health", task) == "allow"
    assert found("GET /open/42", task) == "allow"


def test_task_entities_restrict_the_resource_of_an_action():
    task = {"entities": [{"type": "doc", "id": "7"}]}
    assert [found(f"ACTION view doc {id_}", task) for id_ in ("7", "8")] == ["allow", "deny by task"]


def test_a_child_of_a_task_entity_is_not_part_of_the_task():
    rows = {"doc 8": {"in": ["doc 7"]}, "doc 7": {}}
    denied = decide(POLICY, asked("ACTION view doc 8", {"entities": [{"type": "doc", "id": "7"}]}), rows)
    assert verdict(denied) == "deny by task"


def test_an_unknown_resource_is_not_part_of_the_task():
    denied = decide(POLICY, asked("TOOL billing/refund", {"entities": [INVOICE]}))
    assert (verdict(denied), unknown(denied)) == ("deny by task", {"args.id"})
    assert verdict(decide(POLICY, asked("TOOL billing/refund", {"id": "t"}))) == "allow"


def test_task_entities_apply_to_a_path_in_another_case():
    policy = POLICY.replace("GET /health", "GET /health, GET /**")
    assert found("GET /INVOICES/42", {"entities": [INVOICE]}, policy) == "allow"
    assert found("GET /INVOICES/43", {"entities": [INVOICE]}, policy) == "deny by task"


def test_task_tools_and_entities_both_restrict_a_tool_with_a_resource():
    denied = decide(POLICY, asked("TOOL billing/refund", {"tools": [], "entities": []}, args={"id": "42"}))
    assert gates(denied) == ["task", "task"]
    assert [one.kind for one in denied.remedies] == ["task", "task"]


def test_a_pending_task_member_denies_every_tool_call():
    denied = decide(POLICY, {**asked("TOOL fs/read", {"id": "t"}), "pending": ["task.tools"]})
    assert (verdict(denied), unknown(denied)) == ("deny by task", {"task.tools"})


def test_a_task_restricts_a_user_without_an_agent():
    one = {**asked("TOOL fs/write", {"tools": ["fs/read"]}), "credential": {"issuer": "acme"}}
    one.pop("agent")
    assert verdict(decide(POLICY, one)) == "deny by task"


def test_a_task_restricts_a_delegated_request():
    policy = POLICY.replace(
        "acts for any user\n  may", 'acts for any user\n  may delegate refunds to agent "helper"\n  may'
    )
    policy += 'agent "helper" { issued by acme   acts for any user   may refunds }\n'
    handed = {**question("TOOL billing/refund", **bot("helper"), args={"id": "42"}), "chain": chain(hop("bot"))}
    assert verdict(decide(policy, handed)) == "allow"
    assert verdict(decide(policy, {**handed, "task": {"tools": ["refund"], "entities": [OTHER]}})) == "deny by task"


def test_an_unidentified_caller_sees_no_task_reason():
    one = {**asked("TOOL fs/write", {"tools": []}), "agent": {"id": "stranger", "issuer": "acme"}}
    assert gates(decide(POLICY, one)) == ["identity"]


def test_the_reasons_include_both_task_and_guards():
    policy = POLICY + 'guard "no" on TOOL fs/* { deny }\n'
    assert gates(decide(policy, asked("TOOL fs/write", {"tools": []}))) == ["task", "guard"]


# ── `tasks advisory` ──────────────────────────────────────────────────────────────────────────


def test_tasks_advisory_leaves_the_restriction_to_guards():
    policy = "tasks advisory\n" + POLICY
    assert found("TOOL fs/write", {"tools": ["fs/read"]}, policy) == "allow"
    own = policy + 'guard "own" on ACTION view doc { require resource in task.entities }\n'
    inside = {"entities": [{"type": "doc", "id": "7"}]}
    rows = {"doc 8": {"in": ["doc 7"]}, "doc 7": {}, "doc 9": {}}
    came = [verdict(decide(own, asked(f"ACTION view doc {id_}", inside), rows)) for id_ in "789"]
    assert came == ["allow", "allow", 'deny by "own"']  # what is in one of them, too: `in` says so


def test_tasks_advisory_applies_only_to_the_grants_of_its_package():
    one = "package one\nexport issuer acme { scopes none }\ntasks advisory\nusers unrestricted\n"
    one += 'agent "bot" { issued by acme   acts for any user   may TOOL fs/* }\n'
    two = "package two\nimport one\nusers unrestricted\n"
    two += 'agent "bot" { issued by one.acme   acts for any user   may TOOL web/* }\n'
    found = kernel(one, two)
    task = {"tools": []}
    assert [verdict(decide(found, asked(f"TOOL {tool}", task))) for tool in ("fs/x", "web/x")] == [
        "allow",
        "deny by task",
    ]


def test_a_package_that_repeats_the_setting_is_an_error():
    assert codes("tasks advisory\ntasks advisory\n" + POLICY) == {"E405"}


# ── The facts ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "condition", ["resource.id in task.entities", '"42" in task.entities', 'task.entities has "42"']
)
def test_comparing_task_entities_with_a_string_is_an_error(condition: str):
    assert codes(POLICY + f'guard "g" on GET /invoices/{{id: invoice}} {{ require {condition} }}\n') == {"E222"}


@pytest.mark.parametrize(
    "condition", ["resource in task.entities", "task.entities has resource", 'invoice "42" in task.entities']
)
def test_task_entities_may_be_compared_with_any_entity(condition: str):
    policy = "tasks advisory\n" + POLICY + f'guard "g" on GET /invoices/{{id: invoice}} {{ require {condition} }}\n'
    assert found("GET /invoices/42", {"entities": [INVOICE]}, policy) == "allow"
    assert found("GET /invoices/42", {"entities": [OTHER]}, policy) == 'deny by "g"'
