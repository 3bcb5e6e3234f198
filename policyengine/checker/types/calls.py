"""Calls: built-in functions, and entities with a computed id (`invoice(args.invoice_id)`)."""

from __future__ import annotations

from policyengine import kernel as k
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.type_names import describe_type, join_words, quote_source
from policyengine.checker.types.compatibility import NUMBERS, is_assignable
from policyengine.checker.types.constants import entity_constant, lower_id
from policyengine.checker.types.host_comparison import check_hosts
from policyengine.checker.types.schema import UNRESOLVED
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.syntax import nodes as ast
from policyengine.typesystem import ListType, RefType, Scalar, SetType, Type, UnresolvedType
from policyengine.vocabulary import FUNCTIONS, BuiltInFunction

FUNCTIONS_BY_NAME = {function.name: function for function in FUNCTIONS}
Arguments = tuple[k.Expr | None, ...]


# In the table, a Scalar is that type, and a string stands for several types (`number or duration`).
def expected_arguments(call: ast.Call) -> list[Type | None]:
    """Return the expected type of each written argument; None for an argument that may have several types, and for an
    argument or a function that does not exist.
    """
    function = FUNCTIONS_BY_NAME.get(call.function.text)
    known: list[Type | None] = []
    for _, type_ in function.parameters if function else ():
        known.append(type_ if isinstance(type_, Scalar) else None)
    return [*known, *[None] * len(call.arguments)][: len(call.arguments)]


def lower_call(call: ast.Call, arguments: Arguments, context: ExpressionContext) -> k.Expr | None:
    """Lower a call. `arguments` are already lowered; None stands for an argument with an error."""
    function = FUNCTIONS_BY_NAME.get(call.function.text)
    if function is not None:
        return lower_function(function, call, arguments, context)
    if context.program.lookup(context.package, "entity", call.function.text) is None:
        report_unknown(call, context)
        return None
    return lower_entity_call(call, arguments, context)


def report_unknown(call: ast.Call, context: ExpressionContext) -> None:
    name = call.function.text
    hint = (
        did_you_mean(name, [*FUNCTIONS_BY_NAME, *context.program.visible(context.package, "entity")])
        or f"functions are {join_words(sorted(FUNCTIONS_BY_NAME))}"
    )
    context.report("E204", f"unknown function `{name}`", call.function.span, hint)


def lower_function(
    function: BuiltInFunction, call: ast.Call, arguments: Arguments, context: ExpressionContext
) -> k.Call | None:
    if not check_argument_count(call, len(function.parameters), format_signature(function), context):
        return None
    known = [argument for argument in arguments if argument is not None]
    if len(known) < len(arguments):
        return None
    first = known[0].type
    good = [
        accepts_type(parameter, argument.type, first)
        or check_argument(function, name, parameter, argument, first, context)
        for (name, parameter), argument in zip(function.parameters, known, strict=True)
    ]
    if not all(good) or not check_bucket_count(function, known, context):
        return None
    result = function.result if isinstance(function.result, Scalar) else join_all([one.type for one in known])
    found = k.Call(function.name, tuple(known), result, span=call.span)
    return found if check_hosts(found, context.report) else None


def check_argument_count(call: ast.Call, wanted: int, signature: str, context: ExpressionContext) -> bool:
    given = len(call.arguments)
    if given != wanted:
        message = f"`{call.function.text}` takes {format_argument_count(wanted)}, not {given}"
        context.report("E231", message, call.span, f"write `{signature}`")
    return given == wanted


def format_argument_count(number: int) -> str:
    return "one argument" if number == 1 else f"{number} arguments"


def format_signature(function: BuiltInFunction) -> str:
    return f"{function.name}({', '.join(name for name, _ in function.parameters)})"


def accepts_type(parameter: Type | str, actual: Type, first: Type) -> bool:
    if isinstance(actual, UnresolvedType):
        return True
    match parameter:
        case "text or collection":
            return actual == Scalar.STRING or isinstance(actual, SetType | ListType)
        case "number or duration":
            return actual in (*NUMBERS, Scalar.DURATION)
        case "same":
            return actual == first or isinstance(first, UnresolvedType) or (actual in NUMBERS and first in NUMBERS)
        case _:
            return isinstance(parameter, Scalar) and is_assignable(actual, parameter)


def check_argument(
    function: BuiltInFunction,
    name: str,
    parameter: Type | str,
    argument: k.Expr,
    first: Type,
    context: ExpressionContext,
) -> bool:
    wanted = {"same": describe_type(first), "text or collection": "a string, a set or a list"}.get(
        str(parameter), f"a {parameter}"
    )
    wanted = describe_type(parameter) if isinstance(parameter, Scalar) else wanted
    message = f"`{function.name}` takes {wanted}, but {quote_source(argument.span)} is {describe_type(argument.type)}"
    context.report("E232", message, argument.span, f"for example `{function.example}`")
    return False


def check_bucket_count(function: BuiltInFunction, arguments: list[k.Expr], context: ExpressionContext) -> bool:
    match function.name, arguments[-1]:
        case "bucket", k.Constant(int(number)) if number < 1:
            context.report(
                "E232", "`bucket` needs at least one bucket", arguments[-1].span, "write `bucket(user.id, 100)`"
            )
            return False
        case _:
            return True


def join_all(types: list[Type]) -> Type:
    if any(isinstance(one, UnresolvedType) for one in types):
        return UNRESOLVED
    return Scalar.NUMBER if Scalar.NUMBER in types else types[0]


def lower_entity_call(call: ast.Call, arguments: Arguments, context: ExpressionContext) -> k.Expr | None:
    """Lower a reference to an entity with a computed id. A literal id makes a constant, like `invoice "42"`. Return
    None if an error was reported.
    """
    symbol = context.program.find(context.package, "entity", call.function, context.report)
    if (
        symbol is None
        or not check_argument_count(call, 1, f"{call.function.text}(id)", context)
        or arguments[0] is None
    ):
        return None
    written, argument = call.arguments[0], arguments[0]
    if argument.type not in (Scalar.STRING, UNRESOLVED):
        message = (
            f"the id of an entity is a string, but {quote_source(argument.span)} is {describe_type(argument.type)}"
        )
        hint = (
            f"write `{argument.span.text}` alone: it is already an entity"
            if isinstance(argument.type, RefType)
            else None
        )
        context.report("E232", message, argument.span, hint or "ids are strings, even if they consist of digits")
        return None
    if isinstance(written, ast.Text):
        id_ = lower_id(written, context.report)
        return None if id_ is None else entity_constant(symbol.name, id_, call.span)
    return k.Call(symbol.name, (argument,), RefType(frozenset({symbol.name})), span=call.span)
