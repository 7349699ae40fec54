"""Records as JSON and back: frozen dataclasses of plain values, types checked on the way in."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from interp.errors import InputError

# Beyond the resolution of any interval, and stable to read.
DIGITS = 9

R = TypeVar("R")


def encode(value: Any) -> Any:
    """Return a record as JSON has it: mappings, lists, texts, rounded numbers; NaN becomes None."""
    if dataclasses.is_dataclass(value):
        names = (f.name for f in dataclasses.fields(value) if f.metadata.get("json", True))
        return {name: encode(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return round(float(value), DIGITS) if math.isfinite(value) else None
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    raise InputError(f"{type(value).__name__} has no place in a record: {value!r}")


def decode(kind: Any, value: Any, where: str = "", **given: Any) -> Any:
    """Return JSON values as the type `kind`: a dataclass, tuple, dict, union or plain type.

    given: fields of a dataclass that are not in the JSON.
    Raises InputError, with the place, where a value is missing, unknown or of another type.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _decode_union(inner, value, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_record(kind, value, where, given)
    if origin is tuple:
        return _decode_tuple(inner, value, where)
    if origin is dict:
        _expect(isinstance(value, dict), "a mapping", value, where)
        return {k: decode(inner[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float:
        _expect(is_number(value), "a number", value, where)
        return float(value)
    # True is an int to Python.
    _expect(type(value) is kind, str(getattr(kind, "__name__", kind)), value, where)
    return value


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold.

    Python's JSON also reads NaN and Infinity, which `encode` never writes, and whole numbers of
    hundreds of digits.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _expect(holds: bool, wanted: str, value: Any, where: str) -> None:
    if not holds:
        raise InputError(f"{where or 'the record'} is {_short(value)}, not {wanted}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """None, or the one other kind."""
    if value is None and type(None) in kinds:
        return None
    (kind,) = (one for one in kinds if one is not type(None))
    return decode(kind, value, where)


def _decode_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple:
    _expect(isinstance(value, list), "a list", value, where)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(decode(kinds[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    _expect(len(value) == len(kinds), f"a list of {len(kinds)}", value, where)
    pairs = zip(kinds, value, strict=True)
    return tuple(decode(kind, one, f"{where}[{i}]") for i, (kind, one) in enumerate(pairs))


def _decode_record(kind: type[R], value: Any, where: str, given: Mapping[str, Any]) -> R:
    _expect(isinstance(value, dict), f"a {kind.__name__}", value, where)
    hints = typing.get_type_hints(kind)
    fields = [f for f in dataclasses.fields(kind) if f.metadata.get("json", True)]  # pyright: ignore
    names = {f.name for f in fields}
    needed = {f.name for f in fields if _required(f)}
    missing, unknown = sorted(needed - set(value)), sorted(set(value) - names)
    if missing or unknown:
        raise InputError(
            f"{where or 'the record'}: a {kind.__name__} without {missing} and with the unknown "
            f"{unknown}"
        )
    found = {k: decode(hints[k], v, f"{where}.{k}" if where else k) for k, v in value.items()}
    return kind(**found, **given)


def _required(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing
