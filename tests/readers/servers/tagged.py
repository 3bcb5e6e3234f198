"""How the Python servers encode what they read, without loss."""

from decimal import Decimal


def written(value):
    match value:
        case None | bool():
            return value
        case int() | float() | Decimal():
            return {"n": repr(value)}
        case str():
            return {"s": value.encode("utf-8", "surrogatepass").hex()}
        case dict():
            return {
                "o": [[str(key).encode("utf-8", "surrogatepass").hex(), written(one)] for key, one in value.items()]
            }
        case list() | tuple():
            return [written(one) for one in value]
        case _:
            return {"s": repr(type(value)).encode().hex()}


def several(pairs):
    """Return the values of a form: a list if a name occurs twice."""
    found = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}
