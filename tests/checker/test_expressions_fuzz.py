"""Whatever the grammar can spell is either understood or told to be wrong, and never raises."""

from hypothesis import example, given
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.runtime.values import Unknown
from policyengine.syntax import nodes as ast
from policyengine.typesystem import Scalar
from tests.checker.reading import PLACE, ask

LITERALS = st.sampled_from(
    '5 0 1.5 10_000 99999999999999999999 5m 1h30m 0s 2027-01-01 2027-13-01 2027-01-01T10:00:00Z 10.0.0.1 10.0.0.0/8 '
    '999.0.0.1 ::1 fe80::/10 sha256:00ff true false "a" "" "free" "user" 08:00'.split()
)  # fmt: skip
NAMES = st.sampled_from(
    """
    user resource agent tool time credential body args params context request past chain approval behavior.trust
    user.id user.tenant user.roles user.plan user.plans user.manager user.manager.plan user.age user.suspended
    user.since user.nope resource.owner resource.approvers resource.owner.manager.tenant resource.total
    body.amount body.n body.to body.card body.card.number body.card.last body.wait body.nope
    context.risk context.net context.level params.id params.x request.ip request.headers request.query.x
    credential.kind credential.age credential.scopes credential.bound chain.hops chain.agents chain.depth
    task.entities tool.name agent.id agent.groups past.status past.user.id
    internal paid boss boss.tenant same_tenant office_hours free team low jwt nope x y r x.agent plan.free
    """.split()
)
KEYED = st.sampled_from(
    [
        'request.headers["x-id"]',
        'request.headers["X"]',
        'args["a-b"]',
        'body["amount"]',
        'user["x"]',
        'x["a"]',
        'paid["a"]',
    ]
)
ENTITIES = st.sampled_from(['team "a"', 'user "bob"', 'invoice "42"', 'nope "a"', 'folder ""'])
WINDOWS = st.sampled_from(
    ['mon..fri 08:00..18:00 "UTC"', 'sat..sun "UTC"', 'fri 16:00..mon 08:00 "Nope"', '2027-01-01..2026-01-01 "UTC"']
)
HISTORY = st.sampled_from(
    [
        "after GET /x within 1h",
        "no (denied TOOL *) within 5m",
        "after (nope where past.x == y) within 0s per (user.id, nope)",
    ]
)
COMPARISONS = st.sampled_from("==|!=|<|<=|>|>=|in|not in|below|has|within|like|matches|overlaps|subset of".split("|"))
FUNCTIONS = st.sampled_from("lower size min max abs host bucket contains starts_with invoice team nope".split())
VARIABLES = st.sampled_from("x y r user paid".split())


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Every form of an expression, around smaller ones; all of them in parentheses, so that the grammar agrees."""
    few = st.lists(inner, max_size=3).map(", ".join)
    connected = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        st.builds("({} {} {})".format, inner, COMPARISONS, inner),
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner),
        st.builds("({} else {})".format, inner, inner),
        st.builds("({} is {})".format, inner, st.sampled_from(["present", "absent", "known"])),
        st.builds("(not {})".format, inner),
        st.builds("(-{})".format, inner),
        st.builds(lambda parts, word: f"({f' {word} '.join(parts)})", connected, st.sampled_from(["and", "or"])),
        st.builds("({} and {} or {})".format, inner, inner, inner),
        st.builds("({} {} in {}: {})".format, st.sampled_from(["any", "all"]), VARIABLES, inner, inner),
        st.builds("({} within {})".format, inner, WINDOWS),
        st.builds("{}({})".format, FUNCTIONS, few),
        few.map("[{}]".format),
    )


EXPRESSIONS = st.recursive(
    st.one_of(LITERALS, NAMES, NAMES, KEYED, ENTITIES, HISTORY.map("({})".format)), grown, max_leaves=12
)


@given(EXPRESSIONS, st.sampled_from([PLACE, "GET /x", "/v1/**, TOOL *", None]))
@example("(user.plan in [])", PLACE)
@example("([] == [])", PLACE)
@example("(all x in [[], [5]]: (x has 5))", PLACE)
@example("(any x in chain.hops: (x in chain.hops))", PLACE)
@example("(-(-5m) < (5m * 5))", None)
def test_a_generated_expression_lowers_or_has_an_error(expression: str, place: str | None) -> None:
    found = ask(expression, place)
    assert (found.expression is None) == any(finding.is_error for finding in found.findings)
    if found.expression is not None:
        assert found.expression.type == Scalar.BOOL
        assert all(is_sound(part) for part in k.walk(found.expression))


def is_sound(part: k.Expr) -> bool:
    """Later stages have no doubts: types are known, and constants are values."""
    known = str(part.type) != "unknown type"
    return known and not (isinstance(part, k.Constant) and isinstance(part.value, Unknown))


@given(EXPRESSIONS)
def test_a_generated_definition_lowers_or_has_an_error(expression: str) -> None:
    world = f"let one = {expression}\ndefine two = {expression}\nenum plan = free < team\nentity team\nentity invoice"
    found = ask("two or one", "GET /x", world)
    assert found.expression is None or not any(finding.is_error for finding in found.findings)


def test_the_sample_expressions_cover_every_node_type() -> None:
    forms = {form.__name__ for form in ast.Expr.__args__}  # type: ignore[attr-defined]  # a union of node types
    assert forms - {"Aggregate"} <= {type(node).__name__ for text in SAMPLES for node in nodes(text)}


SAMPLES = [
    "not (user.age + 1 == -5)",
    'any x in [1]: size("a") is present',
    'time within sat..sun "UTC" and user in team "a" and no GET /x within 1h',
    "5 else 5m == user.id",
    "user is known",
]


def nodes(text: str) -> list[ast.Node]:
    [package] = ask(text).program.packages.values()
    return [node for module in package.modules for node in ast.walk(module)]
