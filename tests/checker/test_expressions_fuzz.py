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
    task.entities tool.name agent.id agent.groups past.status past.user.id past.body.amount past.output.n past.output
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
        "no (GET /x where past.status is absent) within 1h",
        "after (GET /x where past.output.a is present and (past.output.b else 5) > past.status) within 1h",
        "sum (past.output.n else past.status else 0) of GET /x within 1h",
        "after (nope where past.x == y) within 0s per (user.id, nope)",
    ]
)
COMPARISONS = st.sampled_from("==|!=|<|<=|>|>=|in|not in|below|has|within|like|matches|overlaps|subset of".split("|"))
FUNCTIONS = st.sampled_from("lower size min max abs host bucket contains starts_with invoice team nope".split())
AGGREGATES = st.sampled_from(["sum", "distinct"])
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
        st.builds("(after (GET /x where {}) within 1h)".format, inner),
        st.builds("({} ({} else {}) of GET /x within 1h > {})".format, AGGREGATES, inner, inner, inner),
        st.builds("({} ({}) of GET /x within 1h > 5)".format, AGGREGATES, inner),
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
@example("(sum (past.output.n else -5) of GET /x within 1h > 5)", "GET /x")
@example("(distinct (past.body.amount else past.output.n) of GET /x within 1h > 5)", "GET /x")
@example("(after (GET /x where ((past.output.n else past.output.n) is absent)) within 1h)", "GET /x")
def test_a_generated_expression_lowers_or_has_an_error(expression: str, place: str | None) -> None:
    found = ask(expression, place)
    assert (found.expression is None) == any(finding.is_error for finding in found.findings)
    if found.expression is not None:
        assert found.expression.type == Scalar.BOOL
        parts = list(k.walk(found.expression))
        tested = [part.operand for part in parts if isinstance(part, k.IsPresent)]
        assert all(is_sound(part) for part in parts if part not in tested)
        assert all(is_sound(part) or isinstance(part, k.PastFact) for part in tested)


def is_sound(part: k.Expr) -> bool:
    """Later stages have no doubts: types are known, and constants are values. Only the presence of an outcome needs no
    type."""
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
