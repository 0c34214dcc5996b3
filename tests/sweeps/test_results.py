"""Results of trials: where the metric is read, means over seeds, the table and the figure."""

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from raml_trl.evaluation.intervals import student_interval
from raml_trl.runtime.errors import InputError
from raml_trl.sweeps.results import (
    SettingMean,
    TrialResult,
    _draw_means,
    best_setting,
    means_over_seeds,
    means_table,
    read_metric,
    sweep_figure,
)
from raml_trl.sweeps.sweep_file import Sweep
from tests.sweeps.examples import sweep_of


def test_the_metric_is_read_from_logs_then_evaluation_then_record(tmp_path: Path) -> None:
    def write(name: str, content: object) -> None:
        (tmp_path / name).write_text(json.dumps(content))

    with pytest.raises(InputError, match=r"has no metric 'x', nor any other"):
        read_metric(tmp_path, "x")
    write("run.json", {"results": {"train_loss": 3.5, "reward": 9, "flag": True, "data": {"x": 1}}})
    assert read_metric(tmp_path, "train_loss") == 3.5
    write("metrics.json", {"questions": 7, "metrics": {"pass@1": {"mean": 0.25, "low": 0, "high": 1}}})
    assert read_metric(tmp_path, "pass@1") == 0.25
    assert read_metric(tmp_path, "questions") == 7
    logs = [{"reward": 0.1, "step": 1}, {"eval_pass@1": 0.5}, {"reward": 0.3, "step": 2}, {"eval_pass@1": 0.75}]
    write("trainer_state.json", {"log_history": logs})
    assert read_metric(tmp_path, "eval_pass@1") == read_metric(tmp_path, "eval/pass@1") == 0.75  # the last value
    assert read_metric(tmp_path, "reward") == read_metric(tmp_path, "train/reward") == 0.3  # not the 9 of run.json
    assert read_metric(tmp_path, "pass@1") == 0.25
    with pytest.raises(InputError, match=r"metric 'eval/pass@11', .*; did you mean eval_pass@1"):
        read_metric(tmp_path, "eval/pass@11")
    with pytest.raises(InputError, match="no metric 'flag'"):
        read_metric(tmp_path, "flag")


def results_of(sweep: Sweep, metrics: dict[tuple[Any, ...], float | None]) -> list[TrialResult]:
    def result(key: tuple[Any, ...], value: float | None) -> TrialResult:
        parameters = dict(zip(sweep.parameters, key, strict=True))
        return TrialResult(str(key), parameters, "failed" if value is None else "complete", value, 1.0, None, "")

    return [result(key, value) for key, value in metrics.items()]


def test_means_over_seeds_and_the_table(tmp_path: Path) -> None:
    parameters = {"m": {"values": [8, 4]}, "seed": {"values": [0, 1, 2]}}
    sweep = sweep_of(tmp_path, parameters=parameters)
    values = {(4, 2): 0.6, (8, 0): 0.1, (4, 0): 0.5, (8, 1): None, (4, 1): 0.7, (8, 2): None}
    results = results_of(sweep, values)
    eight, four = means_over_seeds(sweep, results)
    assert eight == SettingMean(parameters={"m": 8}, n=1, mean=0.1, low=None, high=None)
    # Standard deviation 0.1, t at two degrees of freedom 4.302653: 0.1 / sqrt(3) x 4.302653 = 0.248414
    assert (four.parameters, four.n) == ({"m": 4}, 3)
    assert (four.mean, four.low, four.high) == pytest.approx((0.6, 0.351586, 0.848414), abs=1e-6)
    assert best_setting(sweep, [eight, four]) == eight  # minimize is the default
    assert best_setting(replace(sweep, goal="maximize"), [eight, four]) == four
    head, _, first, second = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in means_table(sweep, [eight, four]).splitlines()
    )
    assert head == ["m", "trials", "score: mean", "95 % interval"]
    assert first == ["8", "1", "0.1", "-"]
    assert second == ["4", "3", "0.6", "[0.3516, 0.8484]"]
    assert best_setting(sweep, means_over_seeds(sweep, results_of(sweep, {(4, 0): None}))) is None


def test_the_figure_shows_the_numbers(tmp_path: Path) -> None:
    parameters = {"m": {"values": [8, 4, 2]}, "how": {"values": ["x", "y"]}, "seed": {"values": [0, 1]}}
    sweep = sweep_of(tmp_path, parameters=parameters)
    keys = product([8, 4, 2], ["x", "y"], [0, 1])
    results = results_of(sweep, {(m, how, seed): m + (how == "y") * 10 + seed for m, how, seed in keys})
    axes = Figure().subplots()
    _draw_means(axes, sweep, results)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "4", "2"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["how x", "how y"]
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert [line.get_ydata()[0] for line in diamonds] == [8.5, 4.5, 2.5, 18.5, 14.5, 12.5]
    assert [round(line.get_xdata()[0]) for line in diamonds] == [0, 1, 2, 0, 1, 2]
    whiskers = [line.get_ydata() for line in axes.lines if line.get_marker() == "None"]
    half = 12.7062 * math.sqrt(0.5) / math.sqrt(2)  # t at 1 degree of freedom
    assert list(whiskers[0]) == pytest.approx([8.5 - half, 8.5 + half], abs=1e-3)
    dots = [sorted(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[8, 9], [4, 5], [2, 3], [18, 19], [14, 15], [12, 13]]
    text = sweep_figure(sweep, results)
    assert text == sweep_figure(sweep, results)
    assert "score" in text


def test_the_figure_of_continuous_parameters(tmp_path: Path) -> None:
    parameters = {
        "rate": {"min": 1e-6, "max": 1e-2, "distribution": "log_uniform_values"},
        "kind": {"values": ["x", "y"]},
    }
    sweep = sweep_of(tmp_path, method="random", parameters=parameters)
    text = sweep_figure(sweep, results_of(sweep, {(1e-4, "x"): 0.3, (1e-3, "y"): 0.4, (1e-5, "y"): None}))
    assert ">rate<" in text
    assert ">score<" in text


def test_intervals_over_seeds_are_students() -> None:
    # 97.5 % quantiles of Student's t, from a printed table
    for degrees, t in ((1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (30, 2.04227)):
        values = [float(number) for number in range(degrees + 1)]
        mean = degrees / 2
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / degrees)
        half = t * deviation / math.sqrt(degrees + 1)
        assert student_interval(values) == pytest.approx((mean - half, mean + half), abs=1e-4)
    assert student_interval([1.0, 1.0]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="two values or more, got 1"):
        student_interval([1.0])
