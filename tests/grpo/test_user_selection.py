"""A user's own function selects the rollouts: given as a function, or by its path in YAML or on the command line."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raml_trl.grpo import Selection
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.dataset import GRPOArguments
from raml_trl.grpo.planning.step_cost import draw_work
from raml_trl.grpo.rows import SELECTED
from raml_trl.grpo.selection import select_rollouts
from raml_trl.grpo.user_selection import load_strategy
from raml_trl.runtime.cli import StrictParser
from raml_trl.runtime.errors import InputError
from tests.grpo.planning.test_step_cost import GEOMETRY
from tests.grpo.test_config import make_config
from tests.helpers import REPOSITORY
from tests.helpers.choosers import doubled, keyed, shortest
from tests.helpers.trainers import digit_reward, fixed_rollouts, generation_of, make_trainer, weights

PATH = "tests.helpers.choosers:shortest"
REWARDS = np.random.default_rng(0).random((6, 8))
LENGTHS = np.random.default_rng(1).integers(1, 5, (6, 8))


def select(function: Any, selected: int = 3, **key: int) -> Selection:
    key = {"seed": 0, "step": 0} | key
    return select_rollouts(REWARDS, REWARDS - 0.5, selected, strategy=function, lengths=LENGTHS, **key)


def returning(indices: Any, weights: Any = None) -> Any:
    """Return a function that selects these rollouts."""
    ones = np.ones(np.shape(indices)) if weights is None else np.array(weights)
    return lambda rewards, advantages, lengths, m, rng: Selection(np.array(indices), ones)


def test_a_function_selects() -> None:
    indices = select(shortest).indices
    kept = np.sort(np.take_along_axis(LENGTHS, indices, axis=1), axis=1)
    assert (kept == np.sort(LENGTHS, axis=1)[:, :3]).all()


def test_the_generator_depends_only_on_seed_and_step() -> None:
    first, rewards = select(keyed), REWARDS.copy()
    assert (select(keyed).indices == first.indices).all()
    assert (select(keyed, seed=1).indices != first.indices).any()
    assert (select(keyed, step=1).indices != first.indices).any()
    assert (rewards == REWARDS).all()  # the function changed a copy


@pytest.mark.parametrize("path", [PATH, "tests.helpers.choosers.shortest"])
def test_paths(tmp_path: Path, path: str) -> None:
    assert load_strategy(path) is shortest
    parser = StrictParser([GRPOArguments, SubsetGRPOConfig], allow_abbrev=False)
    plain = ["--dataset_name", "x", "--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false"]
    for line in ([*plain, "--selection", path], ["--config", str(tmp_path / "recipe.yaml"), *plain]):
        (tmp_path / "recipe.yaml").write_text(f"selection: {path}\n")
        config = parser.parse(line)[1]
        assert (config.selection, config.strategy) == (path, shortest)
        assert parser.explicit_settings(line)["selection"] == path  # recorded in run.json


def test_a_function_is_recorded_by_its_path(tmp_path: Path) -> None:
    config = make_config(tmp_path, selection=shortest, num_generations_update=2)
    assert config.selection == config.choice["selection"] == PATH
    assert PATH in config.to_json_string()


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("best", "selection must be random, first, .* or the path of a function such as package.module:function"),
        (
            "tests.helpers.choosers:longest",
            "choosers:longest' cannot be imported .*longest.*current directory",
        ),
        ("nowhere.to_be:found", "No module named 'nowhere'"),
        ("tests.helpers.choosers:NOT_A_FUNCTION", "is a int, not a function"),
        (
            "tests.helpers.choosers:two_arguments",
            "must take five arguments, .rewards, advantages, lengths, m, rng",
        ),
        (lambda *_: None, "<lambda> cannot be imported, so a resumed run could not find it: define it with def"),
        (returning([[0]]), "returning.<locals>.<lambda> cannot be imported"),
    ],
)
def test_unusable_functions(tmp_path: Path, selection: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_config(tmp_path, selection=selection)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *_: [[0]], r"must return a raml_trl.grpo.Selection, got \[\[0\]\] \(list\)"),
        (returning(np.zeros((6, 2), int)), r"indices of shape \(groups, m\) = \(6, 3\), got shape \(6, 2\)"),
        (returning([[0, 1, 2]] * 6, np.ones((6, 1))), r"weights of shape .*, got shape \(6, 1\)"),
        (returning([[0.0, 1.0, 2.0]] * 6), "indices that are integers, got float64"),
        (returning([[0, 1, 2]] * 5 + [[0, 2, 2]]), r"distinct .* got \[0, 2, 2\] for group 5"),
        (returning([[2, 1, 0]] * 6), r"ascending order, got \[2, 1, 0\] for group 0"),
        (returning([[-1, 1, 2]] * 6), r"from 0 to 7 .* got \[-1, 1, 2\]"),
        (returning([[0, 1, 8]] * 6), r"from 0 to 7 .* got \[0, 1, 8\]"),
        (returning([[0, 1, 2]] * 6, [[1, 0, 1]] * 6), r"positive and finite, got \[1, 0, 1\] for group 0"),
        (returning([[0, 1, 2]] * 6, [[1, np.nan, 1]] * 6), "positive and finite, got"),
    ],
)
def test_results_are_checked(function: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"selection tests.grpo.test_user_selection:.*{message}"):
        select(function)


def test_the_batch_as_one_group(tmp_path: Path) -> None:
    make_config(tmp_path, selection=PATH, selection_scope="batch", num_generations_update=2)
    with pytest.raises(InputError, match="defines no advantage"):
        make_config(tmp_path, selection=PATH, selection_scope="batch", advantage_scope="subset")


def test_a_plan_selects_with_the_function() -> None:
    lengths = np.arange(1, 200)
    ours, theirs = (
        draw_work(
            replace(GEOMETRY, selection=name, num_generations_update=2, length_bucketing=True),
            lengths,
            prompt_length=1,
            dead_groups=0,
            seed=0,
        )
        for name in (PATH, "random")
    )
    assert ours.rows == theirs.rows
    assert ours.cells < theirs.cells  # the shortest rollouts


def run(model_dir: str, tmp_path: Path, **settings: Any) -> tuple[Any, Any]:
    defaults = {"num_generations_update": 2, "rollout_func": fixed_rollouts, "max_steps": 2}
    trainer, recorder = make_trainer(model_dir, tmp_path, **(defaults | settings))
    trainer.train()
    return trainer, recorder


@pytest.mark.long
def test_drop_equals_mask_and_lengths_are_completion_tokens(model_dir: str, tmp_path: Path) -> None:
    norms = {}
    for mode in ("drop", "mask"):
        trainer, recorder = run(
            model_dir, tmp_path, selection=shortest, subset_mode=mode, beta=0.1, advantage_scope="subset"
        )
        norms[mode] = recorder.of("grad_norm")
    assert min(norms["drop"]) > 0
    assert norms["drop"] == pytest.approx(norms["mask"], rel=1e-4)
    rows = [row for row in trainer.train_dataset.select(range(2)) for _ in range(8)]
    trainer.model.train()
    batch = generation_of(trainer, rows)
    lengths = batch["completion_mask"].sum(dim=1).view(2, 8)
    selected = batch[SELECTED].view(2, 8)
    for row, mask in zip(lengths, selected, strict=True):
        assert row[mask].sort().values.tolist() == row.sort().values.tolist()[:2]


@pytest.mark.long
def test_weights_of_a_function_multiply_the_gradient(model_dir: str, tmp_path: Path) -> None:
    """All rows have weight 2, so one step of SGD without clipping is twice as long."""
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "max_steps": 1, "loss_type": "grpo"}
    before = weights(make_trainer(model_dir, tmp_path)[0])
    plain, double = (
        weights(run(model_dir, tmp_path, selection=selection, **settings)[0]) for selection in ("first", doubled)
    )
    for name, weight in before.items():
        assert (double[name] - weight).numpy() == pytest.approx(2 * (plain[name] - weight).numpy(), rel=1e-2, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "bnpo"}, "choosers:doubled' weights rows .* loss_type: bnpo is not a sum over rows"),
        ({"advantage_scope": "subset"}, "choosers:doubled' weights rows .* use advantage_scope: group"),
    ],
)
def test_weights_that_the_loss_cannot_have(
    model_dir: str, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(model_dir, tmp_path, selection=doubled, reward=digit_reward, **settings)


def test_the_example_of_the_documentation_as_printed() -> None:
    page = (REPOSITORY / "docs/method.md").read_text(encoding="utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "shortest_correct" in block]
    names: dict[str, Any] = {}
    exec(code, names)
    rewards = np.array([[1, 0, 1, 1, 0.0], [0, 1, np.nan, 0, 0]])
    lengths = np.array([[9, 1, 5, 7, 2], [4, 8, 1, 3, 6]])
    selection = names["shortest_correct"](rewards, rewards, lengths, 2, np.random.default_rng(0))
    assert selection.indices.tolist() == [[2, 3], [1, 3]]
