"""Training examples are tokenised as by TRL, K per question, repeated as configured; left-out data are counted."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl import ModelConfig, SFTConfig, SFTTrainer

from raml_trl.data.records import Question, Task, Trajectory, task_row
from raml_trl.data.shards import TRAJECTORIES, write_shards
from raml_trl.data.tables import open_table
from raml_trl.prompts import prompt_messages
from raml_trl.runtime.errors import InputError, InputErrors
from raml_trl.sft.choosing import Choice
from raml_trl.sft.config import SFTArguments
from raml_trl.sft.examples import IGNORED, ExampleCounts, build_examples, describe
from raml_trl.train_sft import open_inputs

ALL = Choice(
    num_trajectories=None,
    trajectory_order="random",
    length_bin=None,
    question_weight="correct",
    repeat_to_fill=True,
    overlong="drop",
    prompt_style="bare",
    max_length=None,
    completion_only=True,
    seed=0,
)
# Question n has n correct trajectories of increasing length; question 0 has none.
TASKS = [
    Task(
        Question(str(number), f"a={number},b=1", "67", "test"),
        (
            *(Trajectory("<think>" + "a1+2=3;" * (place + 1), True, "m") for place in range(number)),
            Trajectory("<think>wrong", False, "m"),
        ),
    )
    for number in range(5)
]


@pytest.fixture(scope="module")
def tokenizer(model_dir: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(model_dir)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A directory with the tasks, in shards of two."""
    monkeypatch.setattr("raml_trl.data.shards._BATCH_ROWS", 2)
    monkeypatch.setattr("raml_trl.data.shards._SHARD_BYTES", 1)
    write_shards(tmp_path / "data", map(task_row, TASKS), TRAJECTORIES)
    return str(tmp_path / "data")


def build(
    data: str, tokenizer: PreTrainedTokenizerBase, num_proc: int | None = None, **settings: Any
) -> tuple[Dataset, ExampleCounts]:
    return build_examples(open_table(data), tokenizer, replace(ALL, **settings), num_proc=num_proc)


def decoded(examples: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [str(tokenizer.decode(ids)) for ids in examples["input_ids"]]


def texts(examples: Dataset, tokenizer: PreTrainedTokenizerBase) -> Counter[str]:
    return Counter(decoded(examples, tokenizer))


def prompts(examples: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the number of examples of each question, sorted."""
    return sorted(Counter(text.partition("<assistant>")[0] for text in decoded(examples, tokenizer)).values())


def test_tokens_and_labels_are_those_of_trl(
    data: str, model_dir: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [
        {
            "prompt": prompt_messages(task.question.question, "conclusion"),
            "completion": [{"role": "assistant", "content": trajectory.text}],
        }
        for task in TASKS
        for trajectory in task.trajectories
        if trajectory.correct
    ]
    for completion_only in (True, False):
        config = SFTConfig(
            output_dir=str(tmp_path / "trl"),
            use_cpu=True,
            bf16=False,
            report_to="none",
            completion_only_loss=completion_only,
        )
        trl = SFTTrainer(model_dir, args=config, train_dataset=Dataset.from_list(rows)).train_dataset
        examples, _ = build(data, tokenizer, prompt_style="conclusion", completion_only=completion_only)
        ours = sorted(zip(examples["input_ids"], examples["labels"], strict=True))
        assert ours == sorted(zip(trl["input_ids"], trl["labels"], strict=True))
        assert all(row["length"] == len(row["input_ids"]) for row in examples)


def test_a_template_may_write_the_end_token(data: str, model_dir: str) -> None:
    ends = []
    for token in ("<eos>", "<user>"):
        tokenizer = AutoTokenizer.from_pretrained(model_dir)
        assert "{{ eos_token }}" in tokenizer.chat_template
        tokenizer.eos_token = token
        ends.append({ids[-1] for ids in build(data, tokenizer)[0]["input_ids"]})
        assert ends[-1] == {tokenizer.eos_token_id}
    assert ends[0] != ends[1]


def test_the_examples_end_with_the_eos_token_of_the_config(data: str, model_dir: str, tmp_path: Path) -> None:
    def tokenizer(eos_token: str) -> PreTrainedTokenizerBase:
        config = SFTConfig(
            str(tmp_path), eos_token=eos_token, max_length=64, use_cpu=True, bf16=False, report_to="none"
        )
        return open_inputs(SFTArguments(dataset_name=data, prompt_style="bare"), config, ModelConfig(model_dir))[1]

    assert {ids[-1] for ids in build(data, tokenizer("<user>"))[0]["input_ids"]} == {tokenizer("<user>").eos_token_id}
    assert tokenizer("<user>").eos_token == "<user>"
    with pytest.raises(InputErrors, match=r"eos_token is '<end>', but the tokenizer of .* has no such token"):
        tokenizer("<end>")


def test_a_bos_token_is_not_added_twice(data: str, model_dir: str) -> None:
    """Tokenizers such as Llama's add a BOS token, which the chat template has already written."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    user = tokenizer.convert_tokens_to_ids("<user>")
    begin = TemplateProcessing(single="<user> $A", special_tokens=[("<user>", user)])
    tokenizer.backend_tokenizer.post_processor = begin
    assert tokenizer("a=1")["input_ids"][0] == user
    examples, _ = build(data, tokenizer)
    assert all(row["input_ids"].count(user) == 1 for row in examples)


def test_the_loss_is_on_the_completion_and_its_end(data: str, tokenizer: PreTrainedTokenizerBase) -> None:
    examples, _ = build(data, tokenizer)
    for row in examples:
        trained = [token for token in row["labels"] if token != IGNORED]
        assert tokenizer.decode(trained).startswith("<think>a1+2=3;")
        assert trained[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("k", [1, 2, 3, None])
def test_k_changes_diversity_and_nothing_else(data: str, tokenizer: PreTrainedTokenizerBase, k: int | None) -> None:
    examples, counts = build(data, tokenizer, num_trajectories=k)
    assert len(examples) == counts.examples == 1 + 2 + 3 + 4
    assert counts.trajectories == sum(min(number, k or number) for number in range(5))
    assert (counts.questions, counts.without_correct, counts.left_out, counts.overlong) == (5, 1, 0, 0)
    assert counts.tokens == sum(examples["length"])
    assert len(texts(examples, tokenizer)) == counts.trajectories


def test_the_k_are_nested(data: str, tokenizer: PreTrainedTokenizerBase) -> None:
    chosen = [set(texts(build(data, tokenizer, num_trajectories=k)[0], tokenizer)) for k in (1, 2, 4)]
    assert chosen[0] < chosen[1] < chosen[2]


def test_longest_and_shortest(data: str, tokenizer: PreTrainedTokenizerBase) -> None:
    shortest, _ = build(data, tokenizer, num_trajectories=1, trajectory_order="shortest", repeat_to_fill=False)
    longest, _ = build(data, tokenizer, num_trajectories=1, trajectory_order="longest", repeat_to_fill=False)
    steps = [[text.count("+") for text in decoded(examples, tokenizer)] for examples in (shortest, longest)]
    assert steps == [[1, 1, 1, 1], [1, 2, 3, 4]]


def test_length_bins_have_the_same_questions_and_examples(data: str, tokenizer: PreTrainedTokenizerBase) -> None:
    short, long = (build(data, tokenizer, length_bin=part) for part in ("1/2", "2/2"))
    for examples, counts in (short, long):
        assert len(examples) == 2 + 3 + 4  # question 1 has 1 trajectory, too few for two bins
        assert counts.left_out == 1
        assert prompts(examples, tokenizer) == [2, 3, 4]
    assert max(short[0]["length"]) < max(long[0]["length"])


def test_equal_weight_of_questions(data: str, tokenizer: PreTrainedTokenizerBase) -> None:
    examples, _ = build(data, tokenizer, num_trajectories=2, question_weight="equal")
    assert prompts(examples, tokenizer) == [2, 2, 3, 3]  # 10 examples, divided between 4 questions


def test_without_repetition_each_trajectory_is_an_example(data: str, tokenizer: PreTrainedTokenizerBase) -> None:
    examples, counts = build(data, tokenizer, num_trajectories=3, repeat_to_fill=False)
    assert set(texts(examples, tokenizer).values()) == {1}
    assert len(examples) == counts.trajectories == 1 + 2 + 3 + 3


def test_another_trajectory_replaces_an_overlong_trajectory(data: str, tokenizer: PreTrainedTokenizerBase) -> None:
    whole, _ = build(data, tokenizer)
    limit = sorted(set(whole["length"]))[1]  # the length of trajectories with two steps
    examples, counts = build(data, tokenizer, max_length=limit)
    assert max(examples["length"]) == limit
    assert counts.examples == 10
    assert counts.trajectories == 1 + 2 + 2 + 2
    assert counts.overlong == 0 + 0 + 1 + 2
    assert describe(counts, replace(ALL, max_length=limit)) == (
        f"10 examples ({counts.tokens} tokens) of 7 distinct trajectories, for 4 of 5 questions; questions without "
        f"a correct trajectory: 1; trajectories dropped because they exceed max_length {limit}: 3"
    )
    only_one, counts = build(data, tokenizer, max_length=limit, num_trajectories=1, trajectory_order="longest")
    assert list(only_one["length"]).count(limit) == 9
    assert counts.overlong == 3


def test_cutting_overlong_trajectories(data: str, tokenizer: PreTrainedTokenizerBase) -> None:
    whole, _ = build(data, tokenizer)
    limit = sorted(set(whole["length"]))[1]
    examples, counts = build(data, tokenizer, max_length=limit, overlong="cut")
    assert max(examples["length"]) == limit
    assert counts.trajectories == 10
    assert counts.overlong == 3
    assert all(row["labels"][-1] == row["input_ids"][-1] for row in examples)


def test_questions_without_a_fitting_trajectory(data: str, tokenizer: PreTrainedTokenizerBase) -> None:
    whole, _ = build(data, tokenizer)
    _, counts = build(data, tokenizer, max_length=min(whole["length"]), trajectory_order="longest", num_trajectories=1)
    assert counts.left_out == 0  # the shortest of each question fits
    with pytest.raises(InputError, match="no correct trajectory fits max_length 3 with its prompt, so there"):
        build(data, tokenizer, max_length=3)
    with pytest.raises(InputError, match="no correct trajectory fits max_length 3 with its prompt, so there"):
        build(data, tokenizer, max_length=3, overlong="cut")  # only the prompt would remain
    with pytest.raises(InputError, match="no question has enough correct trajectories for length_bin 8/8, so there"):
        build(data, tokenizer, length_bin="8/8")


def test_no_correct_trajectory(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    write_shards(tmp_path, map(task_row, TASKS[:1]), TRAJECTORIES)
    with pytest.raises(InputError, match="no trajectory is correct, so there is nothing to train on"):
        build(str(tmp_path), tokenizer)


def test_the_same_text_twice_is_one_trajectory(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    twice = tuple(Trajectory(text, True, "m") for text in ("<think>a", "<think>a", "<think>b"))
    write_shards(tmp_path, [task_row(Task(TASKS[0].question, twice))], TRAJECTORIES)
    examples, counts = build(str(tmp_path), tokenizer, num_trajectories=2)
    assert (counts.examples, counts.trajectories) == (3, 2)
    assert sorted(texts(examples, tokenizer).values()) == [1, 2]


def test_several_processes_give_the_same_examples(data: str, tokenizer: PreTrainedTokenizerBase) -> None:
    alone, counts = build(data, tokenizer, num_trajectories=2, seed=1)
    shared, shared_counts = build(data, tokenizer, num_trajectories=2, seed=1, num_proc=2)
    assert alone.to_dict() == shared.to_dict()
    assert counts == shared_counts


def test_a_template_that_drops_the_reasoning_is_rejected(data: str, model_dir: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.chat_template = tokenizer.chat_template.replace("message.content", "message.content.split('=')[-1]")
    with pytest.raises(InputError, match="the chat template alters the trajectory of question 1"):
        build(data, tokenizer)


@pytest.mark.long
@pytest.mark.parametrize(("k", "distinct"), [(1, 887), (2, 1483), (4, 1994)])
def test_gsm8k_rollouts(shared_data: Path, tokenizer: PreTrainedTokenizerBase, k: int, distinct: int) -> None:
    _, counts = build(str(shared_data / "gsm8k_rollouts_4x.jsonl.gz"), tokenizer, num_trajectories=k)
    # The numbers of questions with 0, 1, 2, 3, 4 correct trajectories are 432, 290, 236, 205, 156.
    assert (counts.questions, counts.without_correct) == (1319, 432)
    assert counts.examples == 290 + 2 * 236 + 3 * 205 + 4 * 156 == 2001
    # 887 + 597 - 1 and 2001 - 7, because a few trajectories of different models are identical.
    assert counts.trajectories == distinct
