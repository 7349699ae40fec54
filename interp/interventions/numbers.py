"""Whole numbers that callers give, checked before anything runs."""

from numbers import Integral
from typing import Any

from interp.errors import InputError


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is not a whole number from `least` on.

    Raises:
        InputError: with the name, the value and the bound.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InputError(f"{name} = {value!r:.60}: a whole number from {least} on is needed")
