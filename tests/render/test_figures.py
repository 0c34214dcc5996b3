"""Figures: the moving mean, and reproducible SVG."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raml_trl.render.figures import blank_figure, smooth, svg


@given(st.lists(st.floats(0, 9), min_size=1, max_size=20), st.integers(1, 9))
def test_smoothing_is_a_mean_of_neighbours(values: list[float], window: int) -> None:
    before = (window - 1) // 2
    expected = [np.mean(values[max(0, t - before) : t - before + window]) for t in range(len(values))]
    assert smooth(values, window) == pytest.approx(expected)


@pytest.mark.long
def test_the_same_figure_gives_the_same_svg() -> None:
    def draw() -> str:
        figure, axes = blank_figure(3.0, 2.0)
        axes.plot([1, 2], [3, 4])
        axes.set_title("loss")
        return svg(figure)

    assert draw() == draw()
    assert draw().startswith("<svg")
    assert "loss" in draw()
