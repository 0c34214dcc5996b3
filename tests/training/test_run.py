"""A run resumes from the right checkpoint, rejects unusable models at its start, and saves `rope_theta`."""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm
from transformers import AutoConfig, Gemma3TextConfig, GPT2Config, PreTrainedConfig, Qwen2Config, Qwen2ForCausalLM
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from raml_trl.runtime.errors import InputError, RepeatedError
from raml_trl.runtime.runs import open_run
from raml_trl.sampling.loading import check_model, keep_rope_theta
from raml_trl.training import launch
from raml_trl.training.adapters import merge_adapter
from raml_trl.training.completeness import choose_checkpoint
from raml_trl.training.run import ProgressBar, without_advice_to_trl


def checkpoint(directory: Path, step: int, state: str | None = None) -> None:
    path = directory / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}) if state is None else state)


def test_the_progress_bar_shows_the_metrics_that_exist() -> None:
    bar = ProgressBar()
    bar.training_bar = tqdm(total=1, file=io.StringIO())
    logs: Any = {"loss": 0.25, "reward": None, "correct": float("nan"), "other": 1.0}
    bar.on_log(TrainingArguments(), TrainerState(), TrainerControl(), logs)
    assert bar.training_bar.postfix == "loss=0.25, correct=nan"


def test_the_names_that_trl_uses_cause_no_warning() -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8, "vocab_size": 8}
    model = Qwen2ForCausalLM(Qwen2Config(num_attention_heads=1, num_key_value_heads=1, **sizes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with without_advice_to_trl():
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
            model.gradient_checkpointing_disable()
        with pytest.raises(FutureWarning):
            model.gradient_checkpointing_enable()


def test_the_newest_complete_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_checkpoint(tmp_path) is None
    for step in (2, 10, 9):
        checkpoint(tmp_path, step)
    assert choose_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    checkpoint(tmp_path, 11, state='{"global_st')
    (tmp_path / "checkpoint-12").mkdir()
    assert choose_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert "checkpoint-12 is incomplete" in caplog.text
    assert "checkpoint-11 is incomplete" in caplog.text


def test_only_the_first_process_of_a_launch_merges_an_adapter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_adapter, merged = str(tmp_path / "missing"), tmp_path / "_merged"
    sent: list[list[object]] = []
    monkeypatch.setattr(launch, "broadcast_object_list", lambda outcome: sent.append(outcome) or sent[0])
    with pytest.raises(InputError, match="missing") as failed:  # rank 0
        merge_adapter(no_adapter, merged, dtype=None)
    monkeypatch.setenv("RANK", "8")  # the first process of its machine
    with pytest.raises(RepeatedError, match="missing"):
        merge_adapter(no_adapter, merged, dtype=None)
    assert sent == [[None, str(failed.value)], [None, None]]
    sent[0] = [str(merged), None]
    assert merge_adapter(no_adapter, merged, dtype=None) == str(merged)
    assert list(tmp_path.iterdir()) == []


def test_missing_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model_name_or_path is missing"):
        check_model(None)
    with pytest.raises(InputError, match="there is no such directory"):
        check_model(str(tmp_path / "missing"))
    with pytest.raises(InputError, match=r"there is no config\.json"):
        check_model(str(tmp_path))
    check_model("Qwen/Qwen2.5-7B")


def test_a_model_still_in_training_is_rejected(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "train_sft", {})
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"the run of train_sft in .* is not complete: start that command again"):
        check_model(str(tmp_path / "run"))
    run.finish(1.0, {})
    check_model(str(tmp_path / "run"))


def test_a_run_is_identified_by_its_inputs(tmp_path: Path) -> None:
    model = tmp_path / "model"
    open_run(model, "build_model", {"seed": "0"}).finish(1.0, {})
    settings = {"model_name_or_path": str(model)}
    open_run(tmp_path / "sft", "train_sft", settings)
    assert not open_run(tmp_path / "sft", "train_sft", settings).complete  # resumes

    (model / "run.json").unlink()
    open_run(model, "build_model", {"seed": "1"}).finish(1.0, {})
    with pytest.raises(InputError, match=r"the content of its model_name_or_path .* has changed since, or is gone; "):
        open_run(tmp_path / "sft", "train_sft", settings)


def test_a_run_is_identified_by_the_code_of_its_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "rewards_of_a_test.py"
    module.write_text("def short(**_): return []\n")
    settings = {"reward_funcs": ["answer", "rewards_of_a_test:short"], "selection": "random"}
    open_run(tmp_path / "grpo", "train_grpo", settings)
    open_run(tmp_path / "grpo", "train_grpo", settings)  # resumes
    module.write_text("def short(**_): return [1.0]\n")
    with pytest.raises(
        InputError, match=r"the content of its reward_funcs \[.*\] has changed since, or is gone; choose"
    ):
        open_run(tmp_path / "grpo", "train_grpo", settings)


def test_a_run_is_identified_by_the_content_of_its_files(tmp_path: Path) -> None:
    data, old = tmp_path / "data.jsonl", tmp_path / "old.jsonl"
    for path in (data, old):
        path.write_text('{"problem": "1 + 1", "answer": "2"}\n')
    settings = {"dataset_name": str(data), "benchmarks": [str(old), "org/name@test"]}
    open_run(tmp_path / "out", "prepare_data", settings).finish(1.0, {})
    data.touch()
    assert open_run(tmp_path / "out", "prepare_data", settings).complete
    for path, name in ((old, "benchmarks"), (data, "dataset_name")):
        before = path.read_text()
        path.write_text(before.replace("2", "3"))
        with pytest.raises(
            InputError, match=rf"the content of its {name} .*{path.stem}\.jsonl.* has changed since, or is gone; choose"
        ):
            open_run(tmp_path / "out", "prepare_data", settings)
        path.write_text(before)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps(record | {"inputs": {}}))  # of an older version
    data.unlink()
    assert open_run(tmp_path / "out", "prepare_data", settings).complete


def test_a_run_that_left_only_empty_directories_is_discarded(tmp_path: Path) -> None:
    """Such as the one for completions, if the first step fails."""
    record = open_run(tmp_path / "out", "train_grpo", {})
    (tmp_path / "out" / "completions").mkdir()
    record.discard()
    assert not (tmp_path / "out").exists()
    record = open_run(tmp_path / "out", "train_grpo", {})
    (tmp_path / "out" / "completions").mkdir()
    (tmp_path / "out" / "completions" / "completions_00001.parquet").touch()
    record.discard()
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == [
        "completions",
        "completions_00001.parquet",
        "run.json",
    ]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"command": "train_sft"')
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        open_run(tmp_path, "train_sft", {})


ROTATIONS = {"default": {}, "yarn": {"factor": 4.0, "original_max_position_embeddings": 4096}}


@pytest.mark.parametrize("rope_type", ROTATIONS)
def test_rope_theta_is_also_written_for_transformers_4(rope_type: str, tmp_path: Path) -> None:
    parameters = {"rope_type": rope_type, "rope_theta": 1e6, **ROTATIONS[rope_type]}
    for name in ("original", "kept"):
        config = Qwen2Config(rope_parameters=dict(parameters))
        if name == "kept":
            keep_rope_theta(config)
        config.save_pretrained(tmp_path / name)
    original, kept = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("original", "kept"))
    assert kept == original | {"rope_theta": 1e6}
    # transformers 5 reads the same values from both files.
    original, kept = (AutoConfig.from_pretrained(tmp_path / name).to_dict() for name in ("original", "kept"))
    assert original | {"_name_or_path": ""} == kept | {"_name_or_path": ""}
    assert kept["rope_parameters"] == parameters


@pytest.mark.parametrize("config", [GPT2Config(), Gemma3TextConfig()], ids=["no rotary embedding", "two bases"])
def test_without_a_single_base_none_is_written(config: PreTrainedConfig) -> None:
    before = config.to_dict()
    keep_rope_theta(config)
    assert config.to_dict() == before
