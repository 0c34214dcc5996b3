"""Groups without a signal are replaced by other questions; nothing else of a generation changes."""

from pathlib import Path
from typing import Any

import pytest

from raml_trl import SubsetGRPOConfig, SubsetGRPOTrainer
from raml_trl.grpo.refill import groups_to_generate
from raml_trl.runtime.errors import InputError
from tests.helpers.trainers import (
    NUM_GENERATIONS,
    digit_reward,
    fixed_rollouts,
    make_trainer,
    odd_prompts_reward,
    questions,
    rollouts_with_tools,
)

REFILL = {"refill": 2, "seed": 0, "num_generations_update": 4, "per_device_train_batch_size": 32}


def rollouts_with_notes(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """Return rollouts with an extra field for each row."""
    return rollouts_with_tools(prompts, trainer) | {"note": [prompt[-1]["content"] for prompt in prompts]}


def checked_reward(
    completions: list[Any], prompts: list[Any], note: list[str], log_extra: Any, log_metric: Any, **_: Any
) -> list[float]:
    """`odd_prompts_reward`, which checks that its columns belong together."""
    assert note == [prompt[-1]["content"] for prompt in prompts]
    log_extra("question", note)
    log_metric("last_digit", sum(int(text[-1]) for text in note))
    return odd_prompts_reward(completions, prompts)


@pytest.mark.parametrize(("groups", "group", "processes", "expected"), [(3, 8, 1, 3), (3, 8, 2, 3), (3, 3, 2, 4)])
def test_new_groups_divide_equally_among_processes(groups: int, group: int, processes: int, expected: int) -> None:
    assert groups_to_generate(groups, group, processes) == expected


@pytest.mark.long
@pytest.mark.parametrize("mode", ["drop", "mask"])
def test_groups_without_signal_are_replaced(model_dir: str, tmp_path: Path, mode: str) -> None:
    settings = {"rollout_func": rollouts_with_notes, "reward": checked_reward, "logging_steps": 10, "max_steps": 1}
    tables, metrics, ledgers = [], [], []
    for more in ({"refill": 0}, {"refill": 2}):
        trainer, recorder = make_trainer(model_dir, tmp_path, **(REFILL | settings | more), subset_mode=mode)
        trainer.train()
        logs = trainer._completion_logs
        columns = logs["extra"]["question"], logs["completion"], logs["rewards"]["checked_reward"]
        tables.append(list(zip(*columns, strict=True)))
        assert [prompt[-1]["content"] for prompt in logs["prompt"]] == list(logs["extra"]["question"])
        names = ("refill/groups", "selection/group_same_reward", "last_digit", "completions/mean_length")
        metrics.append({name: recorder.of(name) for name in names})
        ledgers.append(trainer.summary()["counts"])
    before, after = tables
    groups = [slice(start, start + NUM_GENERATIONS) for start in range(0, len(before), NUM_GENERATIONS)]
    assert len(groups) == 4
    replaced = [group for group in groups if len({reward for _, _, reward in before[group]}) == 1]
    assert 0 < len(replaced) < 4
    for group in groups:
        texts = {text for text, _, _ in after[group]}
        assert len(texts) == 1
        if group not in replaced:
            assert after[group] == before[group]
        else:
            assert texts.isdisjoint(text for text, _, _ in before)
            completions = [completion for _, completion, _ in after[group]]
            recomputed = odd_prompts_reward(completions, [[{"content": text}] for text, _, _ in after[group]])
            assert [reward for _, _, reward in after[group]] == pytest.approx(recomputed)
    assert len({text for text, _, _ in after}) == 4
    assert metrics[1]["refill/groups"][0] >= len(replaced)
    assert metrics[0]["refill/groups"] == []
    for name in ("last_digit", "completions/mean_length"):  # those of the rollouts that were generated first
        assert metrics[0][name] == metrics[1][name] != []
    assert metrics[1]["selection/group_same_reward"][0] < metrics[0]["selection/group_same_reward"][0]
    discarded = int(metrics[1]["refill/groups"][0])
    assert ledgers[1]["rollouts"] == ledgers[0]["rollouts"] + discarded * NUM_GENERATIONS
    assert ledgers[1]["tokens_generated"] > ledgers[0]["tokens_generated"]


@pytest.mark.long
def test_generations_with_signal_stay_as_they_are(model_dir: str, tmp_path: Path) -> None:
    norms = []
    for refill in (0, 3):
        trainer, recorder = make_trainer(
            model_dir, tmp_path, rollout_func=fixed_rollouts, reward=digit_reward, refill=refill, max_steps=2
        )
        trainer.train()
        norms.append(recorder.of("grad_norm"))
    assert norms[0] == norms[1]


@pytest.mark.long
def test_what_cannot_be_replaced_is_rejected(model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs 4 questions, but the dataset has 3"):
        make_trainer(model_dir, tmp_path, refill=1, train_dataset=questions(3))

    class Changed(SubsetGRPOTrainer):
        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            return super()._generate_and_score_completions(inputs)

    with pytest.raises(InputError, match=r"refill is 1, but Changed\._generate_and_score_completions may keep"):
        make_trainer(model_dir, tmp_path, refill=1, trainer_class=Changed)
    with pytest.raises(InputError, match="question_weights needs known probabilities"):
        SubsetGRPOConfig(
            str(tmp_path), use_cpu=True, bf16=False, refill=1, question_selection="mixed", question_weights=True
        )
    with pytest.raises(InputError, match="question_weights weights the questions"):
        SubsetGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, question_weights=True)
    with pytest.raises(InputError, match="selection_cost 'tokens' changes the probabilities of selection 'importance'"):
        SubsetGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, selection_cost="tokens")
