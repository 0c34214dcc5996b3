"""Numbers in tables have as many digits as their intervals need."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raml_trl.evaluation.intervals import Difference
from raml_trl.render.tables import bounded, decimal_places, interval, p_value


@pytest.mark.parametrize(
    ("values", "least", "places"),
    [
        ((0.5, 0.4, 0.6), 3, 3),
        ((0.5, 0.4, 0.6), 2, 2),
        ((0.0004, 0.0003, 0.0006), 3, 5),
        ((0.9997, 0.9992, 1.0), 3, 4),
        ((0.00005, 0.00001, 0.00009), 3, 5),
        ((0.0004, None, None), 3, 5),  # no interval: the digits of the value count
        ((0.25, 0.25, 0.25), 3, 3),
        ((0.0, 0.0, 0.0), 3, 3),
        ((5e-17, -1e-16, 2e-16), 3, 3),  # an error of rounding
        ((1e-11, 0.0, 2e-11), 3, 9),
        ((1234.5, 1200.0, 1260.0), 0, 0),
        ((float("inf"), 0.1, 0.2), 3, 3),
        ((), 3, 3),
    ],
)
def test_digits_follow_the_width(values: tuple[float | None, ...], least: int, places: int) -> None:
    assert decimal_places(*values, least=least) == places


@given(st.floats(-1, 1), st.floats(1e-8, 1), st.floats(0, 1))
def test_bounds_never_look_equal(low: float, width: float, share: float) -> None:
    mean, high = low + share * width, low + width
    numbers = [float(text) for text in re.findall(r"[-+.\d]+", bounded(mean, low, high, signed=True))]
    assert numbers[2] - numbers[1] >= 0.5 * width
    assert numbers == pytest.approx([mean, low, high], abs=0.11 * width)


def test_a_small_significant_difference_is_legible() -> None:
    cell = interval(Difference(0.0003, 0.0001, 0.0005, 0.0002), signed=True, p=0.0002)
    assert (cell.text, cell.small, cell.p) == ("+0.00030", "[+0.00010, +0.00050]", "p < 0.001")
    assert bounded(0.0003, 0.0001, 0.0005) == "0.00030 [0.00010, 0.00050]"


@pytest.mark.parametrize(
    ("p", "places", "text"), [(0.0, 3, "< 0.001"), (0.001, 3, "0.001"), (0.0099, 2, "< 0.01"), (0.00002, 4, "< 0.0001")]
)
def test_p_values_are_never_zero(p: float, places: int, text: str) -> None:
    assert p_value(p, places) == text
