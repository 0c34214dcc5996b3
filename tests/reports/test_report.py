"""Reports: bands and differences match hand calculations, and untrusted text stays escaped."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raml_trl import report
from raml_trl.evaluation.intervals import paired_difference
from raml_trl.grpo.ledger import PHASES
from raml_trl.grpo.planning.step_cost import UNCERTAIN, draw_work, logged_lengths, measured_split, predict_seconds
from raml_trl.render.tables import code_block, escape_markdown
from raml_trl.report import ReportConfig
from raml_trl.reports.runs import average_curves
from raml_trl.reports.step_prediction import read_geometry
from raml_trl.reports.terms import PHASE_MEANINGS, QUANTITIES, metric_terms
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import identity, open_run
from tests.helpers import REPOSITORY
from tests.render.test_html import HOSTILE, browse_file, needs_browser

T = {1: 12.706205, 2: 4.302653, 3: 3.182446}  # Student quantiles for 95 %, by degrees of freedom, from a table


def write_run(directory: Path, command: str, settings: dict[str, Any], logs: Sequence[dict[str, Any]] = ()) -> Path:
    run = open_run(directory, command, settings)
    if logs:
        (directory / "trainer_state.json").write_text(json.dumps({"log_history": list(logs)}))
    run.finish(12.5, {"steps": len(logs), "processes": 1})
    return directory


def grpo_logs(seed: int, m: int, steps: int = 6) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, m])
    seconds = {"generating": 0.2, "rewarding": 0.01, "scoring": 0.0, "preparing": 0.01, "selecting": 0.002}
    return [
        {
            "step": step,
            "correct": float(0.5 + 0.01 * step + 0.05 * rng.random()),
            "loss": 0.0,
            "completions/mean_length": 30.0,
            "completions/min_length": 20.0,
            "completions/max_length": 40.0,
            **{f"seconds/{phase}": value for phase, value in seconds.items()},
            "seconds/updating": float(0.02 + 0.03 * m + 0.01 * rng.random()),
            "eval_pass@1": float(0.6 + 0.02 * m + 0.05 * rng.random()),
            "eval_pass@1_low": 0.0,
        }
        for step in range(1, steps + 1)
    ]


def write_grpo(directory: Path, seed: int, m: int, **settings: Any) -> Path:
    given = {"num_generations": 8, "num_generations_update": m, "per_device_train_batch_size": 32, "seed": seed}
    logs = grpo_logs(seed, m)
    write_run(directory, "train_grpo", given | settings, logs)
    rollouts, cells_all = 32 * len(logs), 32 * len(logs) * 58
    updating = sum(log["seconds/updating"] for log in logs)
    seconds = {"generating": 1.2, "rewarding": 0.06, "scoring": 0.0, "preparing": 0.06, "selecting": 0.012}
    seconds["updating"] = updating
    whole = sum(seconds.values()) - updating + 6 * 0.29
    counts = {"rollouts": rollouts, "selected": rollouts * m // 8, "trained": rollouts * m // 8}
    counts |= {"cells_updating": cells_all * m // 8 if m < 8 else cells_all, "cells_updating_all": cells_all}
    summary = {"steps": len(logs), "num_generations": 8, "num_generations_update": m, "seconds": seconds}
    summary |= {"counts": counts, "speedup": {"estimated": whole / sum(seconds.values())}}
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def write_sweep(directory: Path, values: dict[tuple[int, int], float | None], *, train: bool = True) -> Path:
    """Write a sweep over m and seed. `values` maps (m, seed) to the metric of the trial, or None if it failed."""
    trials, combinations = [], sorted({m for m, _ in values})
    for (m, seed), value in values.items():
        name = f"num_generations_update={m},seed={seed}"
        status = "failed" if value is None else "complete"
        if value is not None and train:
            write_grpo(directory / "trials" / name, seed, m)
        trials.append({"name": name, "parameters": {"num_generations_update": m, "seed": seed}, "status": status})
        trials[-1] |= {"metric": value, "seconds": 1.0, "reason": value and "exit code 1", "log": "x.log"}
        trials[-1]["reason"] = "exit code 1" if value is None else None
    run = open_run(directory / "record", "sweep", {"sweep": "s.yaml"})
    run.finish(1.0, {})
    (directory / "record" / "run.json").rename(directory / "run.json")
    means = [{"parameters": {"num_generations_update": m}} for m in combinations]
    content = {"metric": "eval/pass@1", "goal": "maximize", "trials": trials, "means": means}
    (directory / "sweep.json").write_text(json.dumps(content))
    return directory


def write_evaluation(directory: Path, correct: dict[str, list[bool]], texts: Sequence[str] = (), **given: Any) -> Path:
    rows = [
        {"question_id": question, "sample": sample, "text": f"{question} {sample}", "correct": right}
        | {"formatted": True, "num_tokens": 3, "outcome": "graded"}
        for question, verdicts in correct.items()
        for sample, right in enumerate(verdicts)
    ]
    for row, text in zip(rows, texts, strict=False):
        row["text"] = text
    run = open_run(directory, "evaluate", given)
    pq.write_table(pa.Table.from_pylist(rows), directory / "samples.parquet")
    mean = fmean(fmean(verdicts) for verdicts in correct.values())
    metrics = {"pass@1": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}}
    samples = len(next(iter(correct.values())))
    results = {"questions": len(correct), "samples_per_question": samples, "formatted": 1.0, "mean_tokens": 3.0}
    run.finish(1.0, results | {"metrics": metrics})
    return directory


def make(home: Path, **given: Any) -> tuple[dict[str, Any], str, str]:
    """Make a report; return its JSON, its HTML and its Markdown."""
    directory = home / "report"
    report.main(ReportConfig(output_dir=str(directory), **given), open_run(directory, "report", {}))
    page, text = ((directory / f"report.{kind}").read_text() for kind in ("html", "md"))
    return json.loads((directory / "report.json").read_text()), page, text


class Elements(HTMLParser):
    """Parses a page into the names of its elements, its links, and its text outside scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        if self.names and self.names[-1] not in ("script", "style"):
            self.text += data


def visible_text(page: str) -> str:
    return " ".join(Elements(page).text.split())


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_band_is_students_interval_at_every_step(seeds: int, rng: np.random.Generator) -> None:
    values = rng.random((seeds, 9))
    band = average_curves([dict(enumerate(row, start=5)) for row in values.tolist()])
    assert band is not None
    half = T[seeds - 1] * values.std(axis=0, ddof=1) / math.sqrt(seeds)
    assert band.x == list(range(5, 14))
    assert band.mean == pytest.approx(values.mean(axis=0).tolist())
    assert band.low == pytest.approx((values.mean(axis=0) - half).tolist(), rel=1e-5)
    assert band.high == pytest.approx((values.mean(axis=0) + half).tolist(), rel=1e-5)
    assert (band.n, band.window, band.raw) == (seeds, 1, None)


def test_band_covers_the_steps_that_all_seeds_logged() -> None:
    band = average_curves([{1: 0.1, 2: 0.2, 4: 0.4}, {2: 0.4, 3: 0.9, 4: 0.4}])
    assert band is not None
    assert (band.x, band.mean) == ([2, 4], pytest.approx([0.3, 0.4]))
    assert average_curves([{1: 0.1}, {2: 0.2}]) is None
    assert average_curves([]) is None


def test_single_seed_has_no_band_and_long_curves_are_smoothed_and_thinned() -> None:
    values = [float(step % 7) for step in range(1_000)]
    band = average_curves([dict(enumerate(values))])
    assert band is not None
    assert (band.low, band.high, band.window) == (None, None, 50)
    assert len(band.x) <= 400
    assert band.x[-1] == 999
    assert band.raw is not None
    for x, mean, raw in zip(band.x, band.mean, band.raw, strict=True):
        assert raw == values[x]
        assert mean == pytest.approx(fmean(values[max(0, x - 24) : x + 26]))


VALUES = {(4, 0): 0.70, (8, 2): 0.81, (8, 0): 0.80, (4, 1): 0.74, (8, 1): 0.79, (4, 2): 0.75}


def test_differences_of_a_sweep_are_paired_by_seed(tmp_path: Path) -> None:
    data, page, text = make(tmp_path, sweeps=[f"s={write_sweep(tmp_path / 'sweep', VALUES)}"])
    [sweep] = data["sweeps"]
    assert sweep["baseline"] == {"num_generations_update": 8}
    four, eight = (row for row in sweep["combinations"] if row["metric"] == "eval/pass@1")
    differences = [VALUES[4, seed] - VALUES[8, seed] for seed in range(3)]
    mean, error = fmean(differences), stdev(differences) / math.sqrt(3)
    t = abs(mean) / error
    assert four["difference"] == {
        "mean": pytest.approx(mean),
        "low": pytest.approx(mean - T[2] * error, rel=1e-5),
        "high": pytest.approx(mean + T[2] * error, rel=1e-5),
        "p_value": pytest.approx(1 - t / math.sqrt(2 + t * t)),  # Student's t distribution, two degrees of freedom
        "n": 3,
    }
    assert "difference" not in eight
    assert eight["mean"] == pytest.approx(0.8)
    assert eight["low"] == pytest.approx(0.8 - T[2] * 0.01 / math.sqrt(3), rel=1e-5)
    for shown in (visible_text(page), text):
        assert f"{mean:+.3f}".replace("-", "\N{MINUS SIGN}") in shown
        assert "All 6 trials are complete." in shown
        assert "With 3 seeds (2 degrees of freedom) they are wide" in shown


def test_baseline_can_be_chosen(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", VALUES, train=False)
    data, _, _ = make(tmp_path, sweeps=[f"s={sweep}"], baselines=["s=num_generations_update=4"])
    [four, eight] = data["sweeps"][0]["combinations"]
    assert "difference" not in four
    assert eight["difference"]["mean"] == pytest.approx(0.8 - 0.73)
    with pytest.raises(
        InputError,
        match=r"baseline 'num_generations_update=5' of sweep 's' .* matches 0 of",
    ):
        make(tmp_path / "other", sweeps=[f"s={sweep}"], baselines=["s=num_generations_update=5"])


def test_report_lists_trials_that_are_not_complete(tmp_path: Path) -> None:
    values = {**VALUES, (8, 1): None, (8, 2): None, (2, 0): None}
    data, page, text = make(tmp_path, sweeps=[f"s={write_sweep(tmp_path / 'sweep', values)}"])
    [sweep] = data["sweeps"]
    assert (sweep["trials"]["complete"], sweep["trials"]["failed"]) == (4, 3)
    rows = {row["parameters"]["num_generations_update"]: row for row in sweep["combinations"]}
    assert rows[2]["mean"] is None
    assert rows[2]["difference"] == {"reason": "0 seeds in common"}
    assert "Without a complete trial: m = 2." in visible_text(page)
    assert not re.search(r"^\| Pass@1 +\| 2 ", text, re.MULTILINE)
    assert rows[4]["difference"] == {"reason": "1 seed in common"}
    for shown in (visible_text(page), text.replace("\\", "")):
        assert "4 of 7 trials are complete" in shown
        assert "num_generations_update=8,seed=1 (exit code 1)" in shown
        assert "1 seed in common" in shown


def snapshot(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_unfinished_sweep_is_reported_so_far(tmp_path: Path) -> None:
    from raml_trl.sweeps.study import open_study
    from raml_trl.sweeps.sweep_file import read_sweep

    file = tmp_path / "s.yaml"
    parameters = {"num_generations_update": {"values": [4, 8]}, "seed": {"values": [0, 1]}}
    content = {"program": "p.py", "method": "grid", "metric": {"name": "eval/pass@1", "goal": "maximize"}}
    file.write_text(yaml.safe_dump(content | {"parameters": parameters}))
    directory = tmp_path / "sweep"
    open_run(directory, "sweep", {"sweep": str(file)})
    with pytest.raises(InputError, match=r"has no trials yet: it has no trials\.json"):
        make(tmp_path / "none", sweeps=[f"s={directory}"])
    study = open_study(directory, read_sweep(file), None, 0)
    for (name, settings), value in zip(list(study.trials.items())[:2], (0.5, 0.625), strict=True):
        study.save_metric(name, value)
        write_grpo(study.run_directory(name), settings["seed"], settings["num_generations_update"])
    before = snapshot(directory)
    data, page, _ = make(tmp_path, sweeps=[f"s={directory}"])
    assert snapshot(directory) == before
    [sweep] = data["sweeps"]
    assert (sweep["trials"]["complete"], sweep["trials"]["unfinished"]) == (2, 2)
    means = [row["mean"] for row in sweep["combinations"] if row["metric"] == "eval/pass@1" and row["mean"]]
    assert sum(means) in (0.5 + 0.625, (0.5 + 0.625) / 2)  # the two complete trials have different m, or the same
    assert "2 of 4 trials are complete. Left out:" in visible_text(page)
    record = json.loads((directory / "run.json").read_text())
    record["settings"]["sweep"] = "tiny/sweeps/mine"
    (directory / "run.json").write_text(json.dumps(record))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raml_trl.reports.sweeps.find_recipe", {"tiny/sweeps/mine": file}.__getitem__)
        assert make(tmp_path / "named", sweeps=[f"s={directory}"])[0]["sweeps"] == data["sweeps"]
    record["settings"]["sweep"] = str(file)
    (directory / "run.json").write_text(json.dumps(record))
    file.write_text(yaml.safe_dump(content | {"parameters": parameters, "method": "random", "run_cap": 4}))
    with pytest.raises(InputError, match="has changed since"):
        make(tmp_path / "changed", sweeps=[f"s={directory}"])


def test_runs_with_one_name_are_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_grpo(tmp_path / f"seed-{seed}", seed, 4) for seed in range(3)]
    data, page, text = make(tmp_path, runs=[f"GRPO={run}" for run in runs])
    [training] = data["runs"]
    assert training["seeds"] == [0, 1, 2]
    logs = [[log["correct"] for log in grpo_logs(seed, 4)] for seed in range(3)]
    last = [values[-1] for values in logs]
    curve = training["curves"]["correct"]
    assert curve["mean"][-1] == pytest.approx(fmean(last))
    assert curve["high"][-1] - curve["mean"][-1] == pytest.approx(T[2] * stdev(last) / math.sqrt(3), rel=1e-5)
    assert "loss" not in training["curves"]  # the loss of GRPO is zero apart from clipping
    assert "Lines are means over 3 seeds" in visible_text(page)
    # The table of first and last values, in the terminal and on the page.
    first, bound = fmean(values[0] for values in logs), curve["high"][-1]
    for shown in (capsys.readouterr().out, text):
        [row] = [
            line for line in shown.splitlines() if line.startswith("| GRPO") and "rollouts that are correct" in line
        ]
        cells = [cell.strip().replace("\\", "") for cell in row.split("|")[1:-1]]
        assert cells[2].startswith(f"{first:.3g} [")
        assert cells[3].startswith(f"{fmean(last):.3g} [")
        assert cells[3].endswith(f", {bound:.3g}]")
        assert cells[4] == "1 to 6"


def test_unusable_arguments_are_refused(tmp_path: Path) -> None:
    grpo = write_grpo(tmp_path / "grpo", 0, 4)
    sft = write_run(tmp_path / "sft", "train_sft", {}, [{"step": 1, "loss": 1.0}])
    cases = [
        (
            {"runs": [f"a={grpo}", f"a={sft}"]},
            r"named 'a' must be seeds of one training, but .*grpo is a run of train_grpo",
        ),
        ({"runs": [f"a={grpo}", f"a={grpo}"]}, "is given twice under the name 'a'"),
        (
            {"runs": [f"a={tmp_path / 'gropo'}"]},
            r"gropo holds no run: there is no such directory or file; did you mean .*/grpo\?",
        ),
        ({"sweeps": [f"a={tmp_path / 'elsewhere'}"]}, "elsewhere holds no run: there is no such directory or file$"),
        ({"evaluations": [f"a={tmp_path}"]}, "holds no run: it has no run.json"),
        ({"sweeps": [f"a={grpo}"]}, "grpo holds a run of train_grpo, not of sweep"),
        ({"evaluations": [f"a={grpo}"]}, "grpo holds a run of train_grpo, not of evaluate"),
        ({}, "there is nothing to report: give evaluations, runs or sweeps"),
        ({"runs": ["a"]}, "'a' must have the form stage=DIR"),
        ({"evaluations": ["a=x", "a=y"]}, "evaluations has the name 'a' twice"),
        (
            {"sweeps": ["a=x"], "baselines": ["b=m=1"]},
            "baseline 'b=m=1' must have the form .* one of sweeps: a",
        ),
        ({"sweeps": ["a=x"], "baselines": ["a=m"]}, "baseline 'a=m' must have the form"),
    ]
    for place, (given, message) in enumerate(cases):
        with pytest.raises(InputError, match=message):
            make(tmp_path / f"{place}", **given)
        assert not list((tmp_path / f"{place}").glob("report/report.*"))
    (sft / "trainer_state.json").write_text('{"log_his')
    with pytest.raises(InputError, match=r"trainer_state\.json cannot be read: JSONDecodeError"):
        make(tmp_path / "damaged", runs=[f"a={sft}"])


ANSWERS = {"before": [4, 0, 1, 2, 0], "after": [4, 3, 1, 1, 2]}


def verdicts_of(counts: Sequence[int], first: str = "q") -> dict[str, list[bool]]:
    return {f"{first}{place}": [sample < count for sample in range(4)] for place, count in enumerate(counts)}


def test_stages_are_compared_question_by_question(tmp_path: Path) -> None:
    runs = [f"{name}={write_evaluation(tmp_path / name, verdicts_of(counts))}" for name, counts in ANSWERS.items()]
    data, page, text = make(tmp_path, evaluations=runs)
    assert "differences" not in data["stages"][0]
    difference = data["stages"][1]["differences"]["pass@1"]
    before, after = (np.array(counts) / 4 for counts in ANSWERS.values())
    expected = paired_difference(before, after, np.random.default_rng(0))
    assert difference["mean"] == pytest.approx(0.2)
    # Of the 8 signed sums of 3, 1 and 2, the 4 sums ±6 and ±4 are at least as far from zero as 3 - 1 + 2 = 4.
    assert difference["p_value"] == expected.p_value == 0.5
    assert difference["low"] <= difference["mean"] <= difference["high"]
    for shown in (visible_text(page), text):
        assert "after \N{MINUS SIGN} before" in shown
        assert "+0.200" in shown
        assert "p 0.500" in shown


def test_stages_with_different_questions_show_the_reason(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "first", verdicts_of([1, 2]))
    second = write_evaluation(tmp_path / "second", verdicts_of([1, 2], "other"))
    data, page, _ = make(tmp_path, evaluations=[f"a={first}", f"b={second}"])
    assert data["stages"][1]["differences"] == {}
    assert "b: b and a are evaluations of different questions: they cannot be paired" in visible_text(page)


def write_runs(tmp_path: Path, ms: Sequence[int], seeds: int = 2, **settings: Any) -> list[str]:
    runs = [(m, seed) for m in ms for seed in range(seeds)]
    return [f"m{m}s{seed}={write_grpo(tmp_path / f'm{m}s{seed}', seed, m, **settings)}" for m, seed in runs]


def test_speedups_are_predicted_from_one_run_and_measured_in_the_others(tmp_path: Path) -> None:
    data, page, _ = make(tmp_path, runs=write_runs(tmp_path, [8, 2, 4]))
    [compared] = data["times"]["speedups"].values()
    assert (compared["source"], compared["others"], compared["g"]) == ("m2s0", 5, 8)
    rows = {row["m"]: row for row in compared["rows"]}
    assert {m: row["n"] for m, row in rows.items()} == {2: 1, 4: 2, 8: 2}  # the source run m2s0 is not measured

    def step(m: int, seed: int) -> float:
        return median(0.222 + log["seconds/updating"] for log in grpo_logs(seed, m))

    assert rows[2]["measured"]["step"] == pytest.approx(step(2, 1))
    assert rows[4]["measured"]["step"] == pytest.approx((step(4, 0) + step(4, 1)) / 2)
    logs = [math.log(step(8, seed) / step(4, seed)) for seed in range(2)]
    half = T[1] * stdev(logs) / math.sqrt(2)
    speedup = rows[4]["measured_speedup"]["step"]
    assert speedup["mean"] == pytest.approx(math.exp(fmean(logs)))
    assert speedup["low"] == pytest.approx(math.exp(fmean(logs) - half), rel=1e-5)
    assert rows[2]["measured_speedup"]["step"] == {"mean": pytest.approx(step(8, 1) / step(2, 1)), "low": None} | {
        "high": None
    }
    assert rows[8]["predicted_speedup"] == {"update": 1.0, "step": 1.0}
    assert "logged by one run: m2s0." in visible_text(page)
    assert "how many times as fast as our trainer, not TRL's, on all G rollouts" in visible_text(page)

    # The predictions are those that the planner makes from the source run.
    summary = json.loads((tmp_path / "m2s0" / "summary.json").read_text())
    from raml_trl.reports.runs import read_training

    geometry = read_geometry(read_training(tmp_path / "m2s0"), None)
    lengths = logged_lengths(grpo_logs(0, 2), 32, np.random.default_rng(0))
    split = measured_split(summary, geometry)
    of_four = replace(geometry, num_generations_update=4)
    # A padded rollout has 58 tokens; the longest completion has 40, which leaves 18 for the prompt.
    work = draw_work(of_four, lengths, prompt_length=18, dead_groups=0.0, seed=0)
    assert rows[4]["predicted"]["step"] == pytest.approx(predict_seconds(split, work, 0.5)["step"])


@pytest.mark.long
def test_run_with_other_settings_is_not_compared(tmp_path: Path) -> None:
    runs = [*write_runs(tmp_path, [4], seeds=1), f"lr={write_grpo(tmp_path / 'lr', 0, 8, learning_rate=0.5)}"]
    data, page, _ = make(tmp_path, runs=runs)
    alone, other = data["times"]["speedups"].values()
    assert (alone["source"], other["source"]) == ("m4s0", "lr")  # the runs also differ in the learning rate
    assert [row["m"] for row in alone["rows"]] == [1, 2, 4, 8]
    assert all(row["measured"] is None and row["predicted"] for row in alone["rows"])
    assert visible_text(page).count("Nothing was measured to compare with") == 2
    assert visible_text(page).count("Predicted speed-up:") == 2
    assert "easured speed-up:" not in visible_text(page)


def test_a_run_in_which_the_cost_of_a_token_is_uncertain(tmp_path: Path) -> None:
    run = write_grpo(tmp_path / "m2", 0, 2)
    summary = json.loads((run / "summary.json").read_text())
    for low, says_so in ((0.0009, False), (0.0001, True)):
        cost = {"fitted": 0.001, "low": low, "high": 0.002 - low}
        (run / "summary.json").write_text(json.dumps(summary | {"cell_seconds": cost}))
        data, page, _ = make(tmp_path / str(low), runs=[f"g={run}"])
        [compared] = data["times"]["speedups"].values()
        assert compared["uncertain"] is says_so
        assert (UNCERTAIN in visible_text(page)) is says_so


def test_run_without_summary_predicts_nothing(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [4, 8], seeds=1)
    (tmp_path / "m4s0" / "summary.json").unlink()
    data, page, _ = make(tmp_path, runs=runs)
    [compared] = data["times"]["speedups"].values()
    assert compared["reason"] == "m4s0 has no summary.json with counts of trained rows"
    assert "No prediction: m4s0 has no summary.json" in visible_text(page)
    assert "Measured speed-up: the runs" in visible_text(page)
    assert "predicted" not in Elements(page).text.lower()
    _, page, _ = make(tmp_path / "alone", runs=runs[:1])
    assert "Speed-up of the runs: No prediction: m4s0 has no summary.json" in visible_text(page)
    assert "peed-up: the runs" not in visible_text(page)


def test_seconds_by_phase(tmp_path: Path) -> None:
    data, _, text = make(tmp_path, runs=write_runs(tmp_path, [4], seeds=1))
    [split] = data["times"]["splits"].values()
    logs = grpo_logs(0, 4)
    assert split["seconds"]["generating"] == pytest.approx(0.2)
    assert split["seconds"]["updating"] == pytest.approx(fmean(log["seconds/updating"] for log in logs))
    assert "scoring" not in re.findall(r"^\| +\| (.*)$", text, re.MULTILINE)[0]  # no column, since it took no time


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_generations_update": 2, "gradient_accumulation_steps": 4, "selection": "importance"},
        {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "num_iterations": 2, "beta": 0.1},
        {"loss_type": "bnpo"},
        {"subset_mode": "mask", "num_generations": 4, "num_generations_update": 2},
        {"entropy_coef": 0.1, "selection_scope": "batch", "selection": "abs_advantage"},
        {"skip_zero_advantage": False, "length_bucketing": False},
        {"top_entropy_quantile": 0.5},
        {"selection": "importance", "selection_cost": "tokens", "loss_type": "grpo", "num_generations_update": 4},
        {"token_selection": "prefix"},
        {"token_selection": "prefix", "prefix_minimum": 2, "prefix_keep": 0.2, "subset_mode": "mask"},
    ],
)
def test_geometry_equals_that_of_the_trainer_config(settings: dict[str, Any], tmp_path: Path) -> None:
    from raml_trl.grpo.config import SubsetGRPOConfig
    from raml_trl.grpo.planning import inputs as plan_inputs
    from raml_trl.reports.runs import read_training

    given = {"per_device_train_batch_size": 8, **settings}
    config = SubsetGRPOConfig(output_dir=str(tmp_path / "o"), use_cpu=True, bf16=False, report_to="none", **given)
    run = read_training(write_run(tmp_path / "run", "train_grpo", given, grpo_logs(0, 4)))
    # without a summary, it is the run of an older version, which did not pack rows
    assert read_geometry(run, None) == replace(plan_inputs.read_geometry(config, 1), shared_prompts=False)


def test_row_rules_are_read_from_the_summary(tmp_path: Path) -> None:
    from raml_trl.reports.runs import read_training
    from raml_trl.runtime.history import read_summary

    directory = write_grpo(tmp_path / "grpo", 0, 4)
    summary = json.loads((directory / "summary.json").read_text())
    rules = {"length_bucketing": False, "skip_zero_advantage": True}
    (directory / "summary.json").write_text(json.dumps(summary | rules))
    geometry = read_geometry(read_training(directory), read_summary(directory))
    assert (geometry.length_bucketing, geometry.skip_zero_advantage) == (False, True)


def test_correct_and_wrong_completions_appear_with_their_questions(tmp_path: Path) -> None:
    data = open_run(tmp_path / "data", "prepare_data", {})
    rows = [{"id": f"q{place}", "problem": f"what is {place}?", "answer": f"{place}0"} for place in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "questions-00000.parquet")
    data.finish(1.0, {})
    answers = {f"q{place}": [place != 3, True] for place in range(5)}
    stage = write_evaluation(tmp_path / "eval", answers, dataset_name=str(tmp_path / "data"))
    _, _, text = make(tmp_path, evaluations=[f"a={stage}"])
    shown = re.findall(r"^((?:right|wrong).*): (.*)\n\n```text\n(.*)\n```$", text, re.MULTILINE)
    assert shown == [
        ("right, reference answer 00", "what is 0?", "q0 0"),
        ("right, reference answer 10", "what is 1?", "q1 0"),
        ("wrong, reference answer 30", "what is 3?", "q3 0"),
    ]
    # A dataset made again may have other questions under the same ids.
    record = json.loads((tmp_path / "data" / "run.json").read_text())
    (tmp_path / "data" / "run.json").write_text(json.dumps(record | {"settings": {"seed": 1}}))
    assert identity(tmp_path / "data") != json.loads((stage / "run.json").read_text())["inputs"]["dataset_name"]
    _, _, text = make(tmp_path / "anew", evaluations=[f"a={stage}"])
    assert "what is" not in text
    assert "right: q0" in text


def write_completions(
    run: Path, step: int, groups: dict[str, list[tuple[str, bool, bool]]], *, prefix: str = "raml/"
) -> None:
    rows = [
        {"step": step, "prompt": [{"role": "user", "content": prompt}], "completion": text}
        | {f"{prefix}correct": correct, f"{prefix}selected": selected, "advantage": 0.5 - selected}
        for prompt, rollouts in groups.items()
        for text, correct, selected in rollouts
    ]
    (run / "completions").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), run / "completions" / f"completions_{step:05d}.parquet")


@pytest.mark.parametrize("prefix", ["raml/", ""])  # older runs have columns without prefix
def test_group_shows_which_rollouts_were_selected(tmp_path: Path, prefix: str) -> None:
    run = write_grpo(tmp_path / "grpo", 0, 4)
    write_completions(run, 1, {"early": [("x", True, True), ("y", False, False)]}, prefix=prefix)
    late = {"alike": [("u", True, True), ("v", True, False)], "mixed": [("right one", True, False), ("z", False, True)]}
    write_completions(run, 2, late, prefix=prefix)
    _, page, text = make(tmp_path, runs=[f"GRPO={run}"])
    for shown in (visible_text(page), " ".join(text.split())):
        assert "One group of step 2, the last step with logged completions. 1 of its 2 rollouts were selected" in shown
        assert "not selected, advantage +0.50" in shown
        assert "early" not in shown
    assert "wrong, selected, advantage \N{MINUS SIGN}0.50:\n\n```text\nz\n```" in text


def test_group_of_a_running_training_is_from_the_last_readable_file(tmp_path: Path) -> None:
    run = tmp_path / "grpo"
    record = open_run(run, "train_grpo", {})
    checkpoint(run, 3)
    for step in (1, 2, 3):
        write_completions(run, step, {f"of step {step}": [("x", True, True), ("y", False, False)]})
    whole = (run / "completions" / "completions_00002.parquet").read_bytes()
    (run / "completions" / "completions_00002.parquet").write_bytes(whole[: len(whole) // 2])
    (run / "completions" / "completions_00003.parquet").write_bytes(b"")
    (group,) = report.read(ReportConfig("unused", runs=[f"GRPO={run}"]), so_far=True).groups
    assert (group.step, group.unreadable, group.question) == (1, 2, "of step 1")
    (tmp_path / "page").mkdir()
    config = ReportConfig(str(tmp_path / "page"), runs=[f"GRPO={run}"])
    report.write(config, open_run(tmp_path / "page", "report", {}), report.read(config, so_far=True))
    text = "One group of step 1, the last step with logged completions that can be read (2 later: being written, or"
    assert text in visible_text((tmp_path / "page" / "report.html").read_text())
    (run / "trainer_state.json").write_text(json.dumps({"log_history": grpo_logs(0, 4)}))
    record.finish(1.0, {"processes": 1})
    with pytest.raises(InputError, match=r"completions_00003\.parquet cannot be read"):  # the run no longer writes
        make(tmp_path, runs=[f"GRPO={run}"])


def test_titles_say_what_the_page_shows(tmp_path: Path) -> None:
    stages = [f"{name}={write_evaluation(tmp_path / name, verdicts_of([1, 2]))}" for name in ("base", "SFT")]
    run, sweep = write_grpo(tmp_path / "grpo", 0, 4), write_sweep(tmp_path / "sweep", VALUES, train=False)
    titles = {
        "Evaluation of base": {"evaluations": stages[:1]},
        "Evaluations of base and SFT": {"evaluations": stages},
        "Training of GRPO": {"runs": [f"GRPO={run}"]},
        "Evaluation of base; training of GRPO; sweep s": {
            "evaluations": stages[:1],
            "runs": [f"GRPO={run}"],
            "sweeps": [f"s={sweep}"],
        },
    }
    for place, (title, given) in enumerate(titles.items()):
        data, page, text = make(tmp_path / str(place), **given)
        assert data["title"] == title
        assert f"<h1>{title}</h1>" in page
        assert text.startswith(f"# {title}\n")
    _, page, _ = make(tmp_path / "evaluation", evaluations=stages[:1])
    assert "Evaluation: base" in visible_text(page)
    assert "seconds" not in visible_text(page)  # no training of the stage is known
    assert make(tmp_path / "own", evaluations=stages, title="Mine")[0]["title"] == "Mine"


def test_several_reward_functions_have_curves_of_their_own(tmp_path: Path) -> None:
    means = {
        "grad_norm": [1.0, 1.0],
        "reward": [0.5, 0.75],
        "rewards/answer_reward/mean": [0.25, 0.5],
        "rewards/brevity/mean": [-2.0, -1.0],
    }
    both = [{"step": step + 1} | {name: values[step] for name, values in means.items()} for step in (0, 1)]
    one = [{name: value for name, value in entry.items() if "brevity" not in name} for entry in both]
    runs = [write_run(tmp_path / f"run{place}", "train_grpo", {}, logs) for place, logs in enumerate((both, one))]
    _, page, text = make(tmp_path / "both", runs=[f"g={runs[0]}"])
    assert re.findall(r"\| (mean reward of \w+) +\| (\S+) +\| (\S+)", text) == [
        ("mean reward of answer_reward", "0.25", "0.5"),
        ("mean reward of brevity", "\N{MINUS SIGN}2", "\N{MINUS SIGN}1"),
    ]
    rewards = ["mean reward", "mean reward of answer_reward", "mean reward of brevity"]
    assert re.findall("<dt>(.*?)</dt>", page)[:4] == [*rewards, "gradient norm"]
    assert "<dt>mean reward of brevity</dt><dd>mean over all G rollouts of what this reward function returns" in page
    assert "mean reward of" not in make(tmp_path / "one", runs=[f"g={runs[1]}"])[2]


def test_axes_of_shares_end_at_0_and_1(tmp_path: Path) -> None:
    logs = [{"step": step, "reward": 1.0, "correct": 1.0, "eval_pass@8": 1.0} for step in (1, 2)]
    _, page, _ = make(tmp_path, runs=[f"g={write_run(tmp_path / 'run', 'train_grpo', {}, logs)}"])
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    figures = json.loads(data)["figures"]
    assert {figure["title"]: figure["share"] for figure in figures if figure["kind"] == "curves"} == {
        "Pass@8 on held-out questions": True,
        "rollouts that are correct": True,
        "mean reward": False,
    }


def test_every_term_is_explained_on_the_page(tmp_path: Path) -> None:
    logs = [{"step": step} | dict.fromkeys((*QUANTITIES, "eval_mg_pass@8"), 0.5) for step in (1, 2)]
    sft, grpo = (write_run(tmp_path / name, f"train_{name}", {}, logs) for name in ("sft", "grpo"))
    stage = write_evaluation(tmp_path / "eval", verdicts_of([1, 2]))
    _, page, text = make(tmp_path, evaluations=[f"a={stage}"], runs=[f"s={sft}", f"g={grpo}"])
    terms = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert {title for title, _ in QUANTITIES.values()} | {"mG-Pass@8", "Pass@1", "[low, high]"} == terms.keys()
    assert all(len(meaning) > 20 for meaning in terms.values())
    assert r"- Pass@1: probability that a sample is correct" in text
    assert PHASE_MEANINGS.keys() == set(PHASES)
    assert "0.5" in dict(metric_terms(["g_pass@8_0.5"]))["G-Pass@8 (τ = 0.5)"]


def checkpoint(run: Path, step: int) -> None:
    (run / f"checkpoint-{step}").mkdir()
    content = {"log_history": grpo_logs(0, 4, step)}
    (run / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(content))


def watched(tmp_path: Path) -> tuple[ReportConfig, Path]:
    runs = {"runs": [f"GRPO={tmp_path / 'grpo'}"], "evaluations": [f"after={tmp_path / 'eval'}"]}
    config = ReportConfig(output_dir=str(tmp_path / "report"), watch=True, watch_seconds=7, **runs)
    return config, tmp_path / "report" / "report.html"


def test_a_watched_report_follows_its_runs(tmp_path: Path) -> None:
    config, page = watched(tmp_path)
    grpo = tmp_path / "grpo"

    def finish() -> None:
        (grpo / "trainer_state.json").write_text(json.dumps({"log_history": grpo_logs(0, 4)}))
        open_run(grpo, "train_grpo", {}).finish(1.0, {"processes": 1})

    events = [
        lambda: open_run(grpo, "train_grpo", {}),
        lambda: checkpoint(grpo, 3),
        lambda: (checkpoint(grpo, 5), (grpo / "checkpoint-5" / "trainer_state.json").write_text('{"log_')),  # partly
        finish,
        lambda: write_evaluation(tmp_path / "eval", verdicts_of([1, 2])),
    ]
    states = [
        "GRPO has not started. The evaluation after has not started.",
        "GRPO has no checkpoint yet. The evaluation after has not started.",
        "GRPO is running, and shown up to its checkpoint of step 3. The evaluation after has not started.",
        "GRPO is running, and shown up to its checkpoint of step 3. The evaluation after has not started.",
        "Every 7 seconds it is written again. The evaluation after has not started.",
    ]

    def sleep(seconds: float) -> None:
        assert seconds == 7
        assert states.pop(0) in visible_text(page.read_text())
        assert "Written at 14:03:05." in visible_text(page.read_text())
        assert re.findall('<meta http-equiv="refresh" content="(.*?)">', page.read_text()) == ["7"]
        events.pop(0)()

    record = open_run(tmp_path / "report", "report", {})
    last = report.watch(config, record, now=lambda: datetime(2026, 1, 1, 14, 3, 5), sleep=sleep)
    assert (states, events, last.pending) == ([], [], [])
    report.write(config, record, last)
    unwatched, _, _ = make(tmp_path / "again", runs=config.runs, evaluations=config.evaluations)
    assert page.read_bytes() == (tmp_path / "again" / "report" / "report.html").read_bytes()
    assert json.loads((page.parent / "report.json").read_text()) == unwatched
    assert "refresh" not in page.read_text()


def test_an_interrupted_watch_leaves_a_page_that_does_not_refresh(tmp_path: Path) -> None:
    config, page = watched(tmp_path)
    open_run(tmp_path / "grpo", "train_grpo", {})
    checkpoint(tmp_path / "grpo", 3)

    def interrupt(_: float) -> None:
        assert 'http-equiv="refresh"' in page.read_text()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report.watch(config, open_run(page.parent, "report", {}), now=datetime.now, sleep=interrupt)
    assert 'http-equiv="refresh"' not in page.read_text()
    assert "No longer updated. GRPO is running" in visible_text(page.read_text())
    assert [path.name for path in page.parent.iterdir() if path.suffix == ".partial"] == []


def test_the_interval_of_a_watch_has_limits() -> None:
    assert ReportConfig("x", runs=["a=b"]).watch_seconds == 30
    for seconds in (0, -1, 86401):
        with pytest.raises(InputError, match="watch_seconds must be a whole number from 1 to 86,400"):
            ReportConfig("x", runs=["a=b"], watch_seconds=seconds)


def test_long_completions_are_folded(tmp_path: Path) -> None:
    texts = ["short", "long " * 200]
    stage = write_evaluation(tmp_path / "eval", {"q0": [True], "q1": [True]}, texts)
    _, page, _ = make(tmp_path, evaluations=[f"a={stage}"])
    assert page.count("<details>") == 1
    assert "1,000 characters" in visible_text(page)


@pytest.mark.long
@pytest.mark.parametrize("text", HOSTILE)
def test_untrusted_text_is_escaped(text: str, tmp_path: Path) -> None:
    text = text.encode("utf-8", "replace").decode()
    pages = []
    for place, content in enumerate(("harmless", text)):
        home = tmp_path / str(place)
        run = write_grpo(home / "grpo", 0, 4, note=content)
        write_completions(run, 1, {content: [(content, True, True), ("other", False, False)]})
        stage = write_evaluation(home / "eval", {"q": [True], content: [False]}, [content, content])
        setting = content.replace("\0", "")  # which no setting may have
        name = setting.replace("=", "") or "x"
        given: dict[str, Any] = {"title": setting, "lead": setting, "runs": [f"{name}={run}"]}
        pages.append(make(home, evaluations=[f"{name}={stage}", f"b={stage}"], **given))
    (_, harmless, _), (_, page, markdown) = pages
    assert Elements(page).names == Elements(harmless).names
    assert "<script>alert" not in page
    fences = re.split(r"^```(?:text)?$", markdown, flags=re.MULTILINE)
    assert not any(re.search(r"(?<!\\)<(script|img|!--)", outside) for outside in fences[::2])


def test_page_loads_nothing_from_the_network(tmp_path: Path) -> None:
    stage = write_evaluation(tmp_path / "eval", verdicts_of([1, 2]))
    _, page, _ = make(tmp_path, evaluations=[f"a={stage}"], runs=write_runs(tmp_path, [4]))
    assert all(link.startswith("#") for link in Elements(page).links)
    assert not re.search(r"//[a-z0-9]|url\((?!#)|@import|@font-face", page, re.IGNORECASE)
    anchors = set(re.findall(r'<h2 id="([^"]+)"', page))
    assert anchors == {"results", "training", "time", "completions", "settings"}
    assert {link[1:] for link in Elements(page).links} == anchors | {"main"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", r"a\|b"),
        ("[0.1, 0.2]", "[0.1, 0.2]"),
        ("[x](y)", r"[x]\(y)"),
        ("a_b*c`d", r"a_b\*c\`d"),
        ("_a_ b__c_[", r"\_a\_ b\_\_c\_["),
        ("# head\nnext", r"\# head next"),
        ("1. one", r"\1. one"),
        ("<b>", r"\<b\>"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, expected: str) -> None:
    assert escape_markdown(text) == expected


def test_fence_is_longer_than_any_in_the_text() -> None:
    assert code_block("a\n````\nb").splitlines()[0] == "`````text"


@pytest.mark.children
def test_report_starts_without_torch() -> None:
    import subprocess
    import sys

    check = "import sys, raml_trl.report; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


@pytest.mark.children
@needs_browser
@pytest.mark.parametrize("flags", [(), ("--blink-settings=preferredColorScheme=0",)], ids=["light", "dark"])
def test_browser_draws_every_figure(flags: tuple[str, ...], tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", VALUES)
    stages = [f"{name}={write_evaluation(tmp_path / name, verdicts_of(counts))}" for name, counts in ANSWERS.items()]
    data, page, _ = make(tmp_path, sweeps=[f"s={sweep}"], evaluations=stages, runs=write_runs(tmp_path, [4], seeds=1))
    seen = browse_file(tmp_path, page, "report", *flags)
    assert seen["drawn"] == page.count('class="drawing"')
    assert seen["bands"] == 2  # one for m = 4, one for m = 8
    figure = next(figure for figure in data["sweeps"][0]["figures"] if figure["name"] == "correct")
    at = [figure["lines"][name] for name in ("m = 4", "m = 8")]
    assert seen["tip"][0] == "step 6"
    assert seen["tip"][1::2] == ["m = 4", "m = 8"]
    for text, line in zip(seen["tip"][2::2], at, strict=True):
        numbers = [float(number) for number in re.findall(r"[\d.]+", text)]
        assert numbers == pytest.approx([line[part][-1] for part in ("mean", "low", "high")], abs=0.006)
    assert seen["first"] == ["step 1"]
    assert seen["last"] == seen["tip"]  # the keyboard shows what the pointer shows
    assert set(seen["stops"]) == {"0"}
    assert seen["without"] == 1
    assert seen["again"] == 2
    assert seen["focused"] == ["svg"]
    paper, ink = (sum(map(int, re.findall(r"\d+", seen[name])[:3])) for name in ("paper", "ink"))
    assert paper < 150 < 500 < ink if flags else ink < 250 < 700 < paper
