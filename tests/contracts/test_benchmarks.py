"""The benchmarks run on small inputs, and the tables in the documentation equal their stored results."""

import itertools
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks import harness, on_gpu, tables
from benchmarks.data import growth as data_growth
from benchmarks.data import sft_throughput
from benchmarks.grpo import features, peak_memory, selection_cost, shared_prompts, update_time, whole_step
from benchmarks.grpo.feature_cases import feature_cases
from benchmarks.likelihood import along as likelihood_along
from benchmarks.likelihood import growth as likelihood_growth
from raml_trl.grpo.agreement.results import from_json
from tests.helpers import REPOSITORY
from tests.helpers.preloaded import python

TOY = harness.Workload(questions=2, completion_length=12, max_length=12, prompt_length=4)
RESULTS = sorted(harness.RESULTS.glob("*.json"))


def test_rollout_lengths_follow_the_workload() -> None:
    tailed = harness.Workload(completion_length=100, sigma=1.0, max_length=400, questions=100)
    lengths = np.concatenate([tailed.lengths(step) for step in range(5)])
    assert 90 < np.median(lengths) < 110
    assert lengths.max() == 400
    assert np.array_equal(tailed.lengths(3), tailed.lengths(3))
    assert not np.array_equal(tailed.lengths(3), tailed.lengths(4))
    assert set(TOY.lengths(0)) == {12}


def test_rewards_are_equal_only_in_dead_groups() -> None:
    rewards = harness.Workload(questions=4, dead_groups=2).rewards(0).reshape(4, 8)
    assert [len(set(group)) for group in rewards] == [1, 1, 8, 8]


@pytest.mark.long
def test_both_trainers_are_timed_on_the_same_rows() -> None:
    [taken] = harness.measure_pairs(TOY, harness.Device(), [2, 8], pairs=1, steps=1)
    assert taken.keys() == {"stock", "2", "8"}
    assert all(seconds["updating"] > 0 for seconds in taken.values())
    ours = harness.run(TOY, harness.Device(), steps=1, selected=2)
    assert ours.ledger.counts["trained"] == 2 * 4  # two steps (one is the warm-up) of two questions with two rows each
    assert len(ours.updating) == 2


def test_selection_cost_is_simulated() -> None:
    simulated = selection_cost.simulate(1_024, 4, "importance", seed=0)
    assert simulated["selecting"] > 0
    assert 0 < simulated["padding"] < 0.5
    assert 0 <= simulated["imbalance"] < 0.5


def test_memory_is_measured() -> None:
    assert peak_memory.measure_here(TOY, harness.Device(), {"selected": 2}) >= 0


def test_questions_have_different_prompts() -> None:
    prompts = list(map(tuple, harness.Workload(questions=12, prompt_length=4).prompts(0)))
    assert [prompts.count(prompt) for prompt in dict.fromkeys(prompts)] == [8] * 12
    assert {len(prompt) for prompt in prompts} == {4}


@pytest.mark.children
@pytest.mark.long
def test_shared_prompts_are_measured_pair_by_pair(tmp_path: Path) -> None:
    workload = shared_prompts.ShortStart(
        questions=2, num_generations=4, micro_batch=4, prompt_length=20, completion_length=6, max_length=6
    )
    cell = shared_prompts.Cell(workload, "vocabulary 512", selections=(1,), pairs=2)
    [first] = shared_prompts.measure([replace(cell, pairs=1)], tmp_path)[cell.name]["pairs"]
    result = shared_prompts.measure([cell], tmp_path)[cell.name]  # goes on after the first pair
    assert result["pairs"][0] == first
    assert len(result["pairs"]) == 2
    for pair in result["pairs"]:
        assert pair["stock"]["cells"] == 8 * (20 + 6)
        assert pair["1"]["cells"] == 2 * (19 + 6)  # the last token of a prompt runs with each completion
        assert all(values["seconds"] > 0 and values["mebibytes"] >= 0 for values in pair.values())
    assert result["limit"]["1"]["median"] == pytest.approx(50 / 208, abs=1e-4)
    assert shared_prompts.measure([cell], tmp_path)[cell.name] == result  # nothing is left to do


def test_shared_prompts_have_every_cell() -> None:
    shapes = {(cell.workload.prompt_length, cell.model, cell.checkpointing) for cell in shared_prompts.CELLS.values()}
    models = ("vocabulary 512", "vocabulary 32,000")
    assert shapes >= set(itertools.product((64, 256, 1024, 4096), models, (False, True)))


@pytest.mark.long
def test_gpu_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    """The packed trainer agrees with TRL's and with plain rows, and an interrupted run keeps its lines."""
    path, clock = tmp_path / "lines.jsonl", iter(itertools.count())
    chosen = [*on_gpu.cases([12], 4, ["sdpa"]), on_gpu.Case(4000, 4, None)]

    load = harness.Workload(questions=2, num_generations=4, micro_batch=4, completion_length=6, sigma=0.5)

    with path.open("w") as output:
        lines = on_gpu.measure(
            chosen,
            lambda prompt_length: replace(load, prompt_length=prompt_length),
            harness.Device(),
            output,
            peak_flops=1e9,
            now=lambda: float(next(clock)),
            deadline=99.0,
        )
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines
    stock, packed, fewer, plain, late = lines
    for name in ("loss", "grad_norm", "entropy"):
        assert packed[name] == pytest.approx(stock[name], rel=1e-4)
        assert fewer[name] == pytest.approx(plain[name], rel=1e-4)
    assert packed["grad_norm"] != pytest.approx(fewer["grad_norm"], rel=1e-2)
    assert packed["check"]["tokens"] == load.lengths(0).sum()
    assert (packed["obstacle"], plain["obstacle"]) == (None, "shared_prompts is off")
    assert late["failed"] == "not run: no time left"
    printed = on_gpu.table(lines)
    assert printed.count("\n") == 1 + len(lines)
    assert "| 12 | 4 | ours, sdpa |" in printed
    assert printed.endswith("no time left | | | | | |")


@pytest.mark.children
def test_gpu_benchmark_needs_few_packages() -> None:
    others = ["math_verify", "matplotlib", "openai"]
    block = f"import sys; sys.modules.update(dict.fromkeys({others}))"
    subprocess.run([*python(), "-c", f"{block}; import benchmarks.on_gpu"], check=True, cwd=REPOSITORY)


def test_flops_are_those_of_the_matrix_products() -> None:
    """Without a prefix, every token of the completions runs through the model and the head."""
    model = harness.Device().build()
    tokens = torch.arange(24)[None]
    with FlopCounterMode(display=False) as counter:
        model(tokens)
    counts = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
    products = sum(count for name, count in counts.items() if "mm" in name)
    scores = model.config.num_hidden_layers * 4 * model.config.hidden_size * (24 * 25 / 2)  # causal: half of a square
    workload = harness.Workload(questions=1, prompt_length=1, completion_length=24, max_length=24)
    assert on_gpu.needed_flops(model.config, workload, 0, 1) == pytest.approx(3 * (products + scores))
    prompted = replace(workload, prompt_length=101)
    assert on_gpu.needed_flops(model.config, prompted, 0, 8) < 8 * on_gpu.needed_flops(model.config, prompted, 0, 1)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_are_complete(path: Path) -> None:
    record = json.loads(path.read_text())
    assert record.keys() == {"settings", "machine", "results"}
    figure = path.with_suffix(".svg")  # some results have no figure
    assert not figure.exists() or figure.read_text().startswith("<svg")


def test_results_belong_to_the_current_workloads() -> None:
    record = json.loads((harness.RESULTS / "update_time.json").read_text())
    sizes = {name: record["settings"][name] for name in ("completion_length", "max_length")}
    for name, (workload, _) in update_time.workloads(**sizes).items():
        assert record["results"][name]["workload"] == harness.describe(workload)
    for name, measured in tables.load("shared_prompts").items():
        cell = shared_prompts.CELLS[name]
        assert measured["workload"] == harness.describe(cell.workload)
        assert len(measured["pairs"]) == cell.pairs
        assert measured["ratio"].keys() == set(map(str, cell.selections))
    assert tables.load("whole_step")["by_m"].keys() == set(map(str, whole_step.SELECTIONS))


def test_summary_tables_equal_the_results() -> None:
    assert tables.readme_table() in (REPOSITORY / "README.md").read_text()
    assert tables.summary_table() in (REPOSITORY / "benchmarks/README.md").read_text()


def test_shared_prompts_tables_equal_the_results() -> None:
    page = (REPOSITORY / "benchmarks/README.md").read_text()
    assert tables.shared_prompts_table() in page
    assert tables.shared_prompts_memory_table() in page


@pytest.mark.parametrize("page", ["docs/data.md", "benchmarks/README.md"])
def test_sft_table_equals_the_results(page: str) -> None:
    assert tables.sft_table() in (REPOSITORY / page).read_text()


@pytest.mark.parametrize("page", ["docs/data.md", "benchmarks/README.md"])
def test_growth_table_equals_the_results(page: str) -> None:
    assert tables.growth_table() in (REPOSITORY / page).read_text()


@pytest.mark.parametrize("page", ["docs/analysis.md", "benchmarks/README.md"])
def test_likelihood_tables_equal_the_results(page: str) -> None:
    text = (REPOSITORY / page).read_text()
    assert tables.likelihood_table() in text
    assert tables.exponents_table() in text


def test_features_table_equals_the_results() -> None:
    page = (REPOSITORY / "docs/agreement.md").read_text()
    assert tables.features_table() in page
    assert [row["case"] for row in tables.load("features")] == [case.name for case in feature_cases()]
    assert features.explanations_table() in page


def test_every_feature_agrees_or_is_explained() -> None:
    """The stored results have no failures except those for which the page gives a reason."""
    results = from_json(tables.load("features"))
    failing = {failure[:2] for row in results for failure in row.failures(features.TOLERANCE)}
    assert {cell for cell in failing if not features.is_explained(*cell)} == set()
    for start, (columns, _) in features.EXPLAINED.items():
        for column in columns:
            assert any(case.startswith(start) and column == failing_column for case, failing_column in failing)


@pytest.mark.long
def test_a_feature_is_measured() -> None:
    [result] = features.measure_features("async tools")
    assert [str(failure) for failure in result.failures(features.TOLERANCE)] == []


def test_likelihood_benchmark_compares_the_same_prefixes() -> None:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**likelihood_along.MODEL)).eval()
    complete = likelihood_along.measure(model, 12, rounds=1, whole=12, sampled=3)
    sampled = likelihood_along.measure(model, 12, rounds=1, whole=4, sampled=3)
    assert (complete["prefixes_of_the_loop"], sampled["prefixes_of_the_loop"]) == (13, 3)
    assert 0 < complete["greatest_difference"] < 1e-4


def test_growth_exponent_is_recovered() -> None:
    measured = likelihood_growth.measure("tiny", rounds=1, longest=512)
    assert measured["tokens_times"] == 2
    assert measured["seconds"].keys() == {"256", "512"}
    lengths = [256, 512, 1024]
    for power in (1.0, 1.5, 2.0):
        assert likelihood_growth.exponent(lengths, [length**power for length in lengths]) == pytest.approx(power)
    # A wider model spends a smaller share of its operations on attention, so its cost grows more nearly linearly.
    tiny, wide = ([likelihood_growth.arithmetic(name, length) for length in lengths] for name in ("tiny", "1.5b"))
    assert 1 < likelihood_growth.exponent(lengths, wide) < likelihood_growth.exponent(lengths, tiny) < 2


@pytest.mark.slow  # trains once for each way
def test_every_way_to_form_micro_batches_runs() -> None:
    examples = sft_throughput.make_examples(128, median=12, sigma=0.5, longest=40)
    for method in sft_throughput.METHODS:
        rate = sft_throughput.tokens_per_second(
            method, examples, harness.Device(), steps=1, pack_length=64, attention="sdpa"
        )
        assert rate > 0


@pytest.mark.children
@pytest.mark.slow  # three child processes that import torch
def test_growth_is_measured_stage_by_stage() -> None:
    measured = data_growth.measure(50)
    assert measured.keys() == set(data_growth.STAGES)
    assert measured["choice of K"]["seconds"] > measured["imports"]["seconds"]
    rows = list(data_growth.make_rows(50))
    assert len({row["problem"] for row in rows}) == 50
    assert all(len(set(row["generations"])) == 4 for row in rows)
