"""Carriers whose values are of another kind, and windows that no run has: refused at the door."""

import math

import pytest

from interp.errors import InputError
from interp.interventions import Carrier
from interp.interventions.carriers import check_interchange
from interp.interventions.scheduling import select_calls
from interp.models import Generation
from tests.interventions import networks
from tests.interventions.linear_toy import make_toy

DONOR, RECIPIENT = Generation(n=2, seed=0), Generation(n=2, seed=100)
POINT = ("hidden",)

REFUSED = {
    "before the first call": (Carrier(POINT, window=(-5, 0)), r"\(-5, 0\) of call holds none"),
    "after any call": (Carrier(POINT, window=(10**400, math.inf)), "holds none of the calls"),
    "calls outside": (Carrier(POINT, (7,), window=(0, 5)), r"holds none of the calls \(7,\)"),
    "texts": (Carrier(POINT, window=("a", "b")), "two numbers are needed"),  # pyright: ignore
    "a number": (Carrier(POINT, window=3), "two numbers are needed"),  # pyright: ignore
    "not a number": (Carrier(POINT, window=(math.nan, 5)), "two numbers are needed"),
    "mask of numbers": (Carrier(POINT, mask=(1,)), "1 of 1 entries of the mask are not True"),  # pyright: ignore
    "mask of texts": (Carrier(POINT, mask=("x",)), "True or False, such as 'x'"),  # pyright: ignore
    "mask": (Carrier(POINT, mask=True), "has to be a tuple of True and False"),  # pyright: ignore
    "one call": (Carrier(POINT, 0), "calls = 0 has to hold call numbers"),  # pyright: ignore
    "letters": (Carrier("hidden"), "points = 'hidden' has to be a tuple"),  # pyright: ignore
    "letters of fields": (Carrier(fields="z"), "fields = 'z' has to be a tuple"),  # pyright: ignore
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_carrier_of_other_values_is_refused_before_anything_is_made(case):
    model, _ = make_toy()
    carrier, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        check_interchange(model, [carrier], DONOR, RECIPIENT)


def test_a_window_beside_the_calls_says_how_they_are_numbered():
    model, recipe = networks.unet(), Generation(n=2, steps=4, classes=(0,))
    with pytest.raises(
        InputError, match=r"\(5, 9\) of call holds none of the 4 calls, numbered 0 to"
    ):
        select_calls(model, recipe.batch(0, 1), None, (5, 9), "call")


@pytest.mark.parametrize("window", [(0, 1e12), (-math.inf, 5), (0, 10**400), (-2.5, 4.5)])
def test_a_window_of_unknown_calls_is_as_long_as_a_run_can_be(window):
    model, _ = make_toy()
    found = select_calls(model, DONOR.batch(0, 1), None, window, "call")
    assert isinstance(found, range)
    assert found == range(5 if window[1] < 6 else 100_000)
