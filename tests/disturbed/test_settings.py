"""Settings that cannot work are refused in one line, before anything starts, and nothing is left behind.

The bad values of the large test come from the table of limits itself, one set for each field of every command. `ISSUED`
is a second list, written by hand, so that a field with too wide a limit is found.
"""

import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from raml_trl.analysis.config import LossLandscapeConfig, PseudoGradientConfig, TrajectoryPruningConfig
from raml_trl.build_model import BuildModelConfig
from raml_trl.check_trl import CheckTRLConfig
from raml_trl.compare import CompareConfig
from raml_trl.compare_rules import CompareRulesConfig
from raml_trl.data.arithmetic import SPLITS, split_size
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.rloo import SubsetRLOOConfig
from raml_trl.report import ReportConfig
from raml_trl.runtime.cli import RunOptions, StrictParser
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_yaml
from raml_trl.runtime.limits import Check, Each, Either, Names, Nested, Number, PathName, Text, checks_of
from raml_trl.sft.config import CheckedSFTConfig
from raml_trl.sweep import SweepConfig
from raml_trl.sweeps.sweep_file import read_sweep
from raml_trl.training.config import CheckedModelConfig
from raml_trl.wandb_report import WandbReportConfig
from raml_trl.weigh_claims import WeighClaimsConfig
from tests.disturbed.commands import COMMANDS, RECIPES, TINY, Starter, listing
from tests.disturbed.documented import assert_documented
from tests.helpers import REPOSITORY

pytestmark = pytest.mark.disturbance("settings")

Record = Callable[[str, object], None]
OWN: dict[str, tuple[Any, ...]] = {
    **{name: tuple(classes) for name, (_, *classes) in COMMANDS.items()},
    "pseudo_gradient": (PseudoGradientConfig,),
    "loss_landscape": (LossLandscapeConfig,),
    "trajectory_pruning": (TrajectoryPruningConfig,),
    "compare": (CompareConfig,),
    "report": (ReportConfig,),
    "wandb_report": (WandbReportConfig,),
    "weigh_claims": (WeighClaimsConfig,),
    "compare_rules": (CompareRulesConfig,),
    "check_trl": (CheckTRLConfig,),
}
PARSED = {command: (*classes, RunOptions) for command, classes in OWN.items()}
"""The config classes of every command, except `sweep`, which reads its sweep file first."""
GIVEN = {
    "dataset_name": "arithmetic",
    "dataset_split": "test",
    "num_questions": "8",
    "model_name_or_path": "somewhere/model",
    "output_dir": "out",
    "recipe": "recipe.yaml",
    "prompt_length": "20",
    "evaluations": ["a=x", "b=y"],
    "claims": "claims.yaml",
    "rules": "rules.yaml",
    "run": "run",
    "sweeps": "sweeps",
    "use_cpu": "true",
    "report_to": "none",
}
OFTEN_REQUIRED = {"output_dir", "use_cpu", "report_to", "num_questions", "dataset_split", "evaluations", "run"}
SHOWN_WARNINGS = (FutureWarning, UserWarning, RuntimeWarning)  # Python hides the others outside tests
REFUSAL = re.compile(
    r"(?:argument --)?(?P<name>\w+)(?:/--[\w-]+)?(?: must be a (?:whole )?number, got .+| must be .+, got .+: .+|: .+)"
)


def bad_values(limit: object) -> Iterator[object]:
    """Yield values that a limit must refuse: wrong by sign, size, kind or name, or dangerous as text."""
    match limit:
        case Number():
            below = limit.low if limit.above else limit.low - 1
            yield from (value for value in (below, -(10**30)) if value not in limit.also)
            yield from (limit.high + 1, math.nan, math.inf, "1" * 5000)
            yield from [1.5] if limit.whole else []
        case Names():
            yield from ("foo", "", f"{limit.names[0]}x", "a\0b", "\x1b[31m", 3)
        case Text() | PathName():
            yield from ("a\0b", "\ud800", "x" * 200_000)
        case Each():
            yield from ([value] for value in bad_values(limit.limit) if not (isinstance(value, str) and not value))
        case Nested():
            yield from ("foo", "[1]", "{", 3)
        case Either():
            yield from ("a\0b",)


def as_words(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def flags(settings: dict[str, object]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", *as_words(value))]


def required(classes: tuple[Any, ...]) -> dict[str, object]:
    """The settings without which the command cannot start, and those for a machine without a GPU."""
    declared = {field.name: field for one in classes for field in fields(one)}
    missing = {
        name
        for name, field in declared.items()
        if field.default is MISSING and field.default_factory is MISSING and field.init
    }
    return {name: value for name, value in GIVEN.items() if name in missing | OFTEN_REQUIRED & declared.keys()}


@pytest.mark.parametrize("command", PARSED)
def test_every_bad_value_of_every_setting_is_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    monkeypatch.chdir(tmp_path)
    classes = PARSED[command]
    parser = StrictParser(list(classes), prog=command, allow_abbrev=False)
    given = required(classes)
    pairs = 0
    for check in (check for one in classes for check in checks_of(one)):
        others = flags({name: value for name, value in given.items() if name != check.name})
        for value in bad_values(check.limit):
            with pytest.raises(InputError) as refusal:
                parser.parse([*others, f"--{check.name}", *as_words(value)])
            message = str(refusal.value)
            matched = REFUSAL.fullmatch(message)
            assert matched is not None, (check.name, value, message)
            assert matched["name"] == check.name, (check.name, value, message)
            assert len(message) < 2_000
            assert "\n" not in message
            pairs += 1
    assert pairs > 10
    assert list(tmp_path.iterdir()) == []
    record_property("cases", pairs)


def test_a_dataclass_refuses_the_same_values() -> None:
    """Python is stricter than the command line, which converts text first."""
    for config_class, given in (
        (SubsetGRPOConfig, {"output_dir": "o", "use_cpu": True, "bf16": False, "report_to": "none"}),
        (SubsetRLOOConfig, {"output_dir": "o", "use_cpu": True, "bf16": False, "report_to": "none"}),
        (CheckedSFTConfig, {"output_dir": "o", "use_cpu": True, "bf16": False, "report_to": "none"}),
        (CheckedModelConfig, {}),
    ):
        for check in checks_of(config_class):
            if isinstance(check.limit, Number):
                with pytest.raises(InputError, match=rf"{check.name} must be"):
                    config_class(**given | {check.name: math.nan})


NUMBERS = (int, float, int | None, float | None)


CLASSES = dict.fromkeys([*(config_class for classes in PARSED.values() for config_class in classes), SweepConfig])


@pytest.mark.parametrize("config_class", CLASSES)
def test_every_number_has_a_range(config_class: Any) -> None:
    def is_bounded(check: Check) -> bool:
        limit = check.limit.limit if isinstance(check.limit, Each) else check.limit
        return isinstance(limit, Number) and math.isfinite(limit.low) and math.isfinite(limit.high)

    numbers = (*NUMBERS, list[int], list[float], list[int] | None, list[float] | None)
    assert [check.name for check in checks_of(config_class) if check.hint in numbers and not is_bounded(check)] == []


CLOSED = {
    SubsetGRPOConfig: "report_to vllm_mode vllm_model_impl lr_scheduler_type optim logging_strategy eval_strategy "
    "save_strategy hub_strategy log_level importance_sampling_level scale_rewards multi_objective_aggregation "
    "vllm_importance_sampling_mode train_sampling_strategy ddp_backend subset_mode selection_scope advantage_scope",
    CheckedSFTConfig: "report_to lr_scheduler_type optim loss_type packing_strategy truncation_mode save_strategy",
    CheckedModelConfig: "dtype bnb_4bit_quant_type lora_task_type",
}


def test_every_name_has_a_list() -> None:
    for config_class, closed in CLOSED.items():
        limits = {check.name: check.limit for check in checks_of(config_class)}
        for name in closed.split():
            assert not limits[name].allows("no such name"), name


def test_no_limit_is_left_over() -> None:
    """With the pinned release of TRL, every limit belongs to a field; and every default is allowed."""
    for config_class in {one for classes in PARSED.values() for one in classes}:
        declared = {field.name for field in fields(config_class)}
        limits = {name for base in config_class.__mro__ for name in vars(base).get("limits", {})}
        assert limits <= declared
        for check in checks_of(config_class):
            if check.limit is not None and check.default not in (None, MISSING):
                assert check.limit.allows(check.default), check.name


ISSUED: list[tuple[str, str, object]] = [
    *(("train_grpo", name, value) for name, values in {
        "max_steps": (0, -2),
        "num_train_epochs": (0, -1, "nan", "inf"),
        "num_iterations": (0, -1),
        "top_p": (0, 2, "nan"),
        "temperature": (0, -1, "nan", "inf"),
        "beta": (-1, "nan", "inf"),
        "epsilon": (-1, 0, "nan"),
        "learning_rate": (-1, "nan", "inf", "-inf"),
        "seed": (-1, 2**32, 10**30),
        "data_seed": (-1, 2**32),
        "per_device_train_batch_size": (0, -8, 10**12),
        "gradient_accumulation_steps": (0, -1),
        "steps_per_generation": (0, -1),
        "num_generations": (0, -8, 10**12),
        "num_generations_update": (0, -1),
        "max_completion_length": (0, -1),
        "question_floor": (0, -0.1, "nan", "inf"),
        "question_selection": ("foo",),
        "prefix_minimum": (0, -1, 0.5),
        "prefix_keep": (0, -0.5, 1.1, "nan"),
        "token_selection": ("foo",),
        "max_tokens_per_micro_batch": (0, -1, 10**12),
        "rank_timeout": (0, -1, "nan", "inf"),
        "when_locked": ("foo",),
        "warmup_steps": (-1, "nan"),
        "weight_decay": (-1, "nan"),
        "max_grad_norm": (-1, "nan"),
        "save_steps": (0, -1, "nan"),
        "logging_steps": (0, -1),
        "vllm_mode": ("foo",),
        "report_to": ("foo",),
        "dtype": ("float33",),
        "lora_r": (0, -1),
        "lora_dropout": (-0.1, 1, "nan"),
        "model_init_kwargs": ("foo",),
        "lr_scheduler_type": ("foo",),
        "optim": ("foo",),
        "scale_rewards": ("foo",),
        "eval_top_p": (0, 2),
        "eval_temperature": (-1, "nan"),
        "output_dir": ("a\0b", "x" * 300, "x/" * 3000),
        "dataset_name": ("a\0b", "x" * 300),
        "model_name_or_path": ("a\0b", "x" * 300),
        "accelerator_config": ("foo",),
        "deepspeed": ("missing.json",),
        "fsdp_config": ("missing.json",),
    }.items() for value in values),
    *(("train_sft", name, value) for name, values in {
        "max_length": (0, -1),
        "num_trajectories": (0, -1),
        "max_steps": (0,),
        "neftune_noise_alpha": (-1, "nan"),
        "label_smoothing_factor": (-1, 2),
        "dataset_num_proc": (0, -1, 10**9),
        "loss_type": ("foo",),
        "pad_to_multiple_of": (0, "foo", -8),
    }.items() for value in values),
    *(("evaluate", name, value) for name, values in {
        "temperature": (-1, "nan", "inf"),
        "top_p": (0, 2, "nan"),
        "num_samples": (0, -1, 10**12),
        "seed": (-1, 2**32),
        "batch_size": (0, 10**12),
        "k": (0, -1),
        "num_graders": (0, 10**9),
        "gpu_memory_utilization": (0, 1.5, "nan"),
        "engine": ("foo",),
    }.items() for value in values),
    *(("build_model", name, value) for name, values in {
        name: (0, -1, 10**12) for name in
        ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
         "max_position_embeddings", "vocab_size")
    }.items() for value in values),
    *(("prepare_data", name, value) for name, values in {
        "num_questions": (0, -1, 10**12),
        "num_trajectories": (-1, 10**5, 10**12),
        "min_overlap": (0, 1.5, "nan"),
        "ngram_size": (0, 10**9),
        "seed": (-1,),
    }.items() for value in values),
    *(("loss_landscape", name, value) for name, values in {
        "steps": (0, -1, 10**9),
        "span": (0, -1, "nan", "inf"),
        "radius": (0, "nan"),
    }.items() for value in values),
    *(("plan", name, value) for name, values in {
        "prompt_length": (0, 10**12),
        "num_processes": (0, 10**12),
        "length_sigma": (-1, "nan", 10**6),
        "dead_groups": (-0.1, 1.1, "nan"),
        "device_memory": (0, -1, "nan", "inf"),
    }.items() for value in values),
]  # fmt: skip


@pytest.fixture(scope="module")
def parsers() -> dict[str, StrictParser]:
    return {
        command: StrictParser(list(classes), prog=command, allow_abbrev=False) for command, classes in PARSED.items()
    }


def test_the_bad_values_of_the_list_are_refused_within_a_second(
    parsers: dict[str, StrictParser], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(ISSUED) > 150
    for command, name, value in ISSUED:
        assert name in {field.name for one in PARSED[command] for field in fields(one)}
        given = {**required(PARSED[command]), name: value}
        started = time.process_time()
        with pytest.raises(InputError) as refusal:
            parsers[command].parse(flags(given))
        assert name in str(refusal.value), (command, name, value)
        assert time.process_time() - started < 1, (command, name, value)
        record_property("cases", 1)
    assert list(tmp_path.iterdir()) == []


def test_impossible_sizes_are_answered_within_a_second() -> None:
    started = time.process_time()
    for sizes in (
        {"num_generations": 2**20 - 1, "per_device_train_batch_size": 2**20},
        {"num_generations": 999_983, "num_generations_update": 7, "per_device_train_batch_size": 999_979},
        {"generation_batch_size": 10**9 - 1, "per_device_train_batch_size": 999_983},
        {"num_generations": 8, "per_device_train_batch_size": 7, "gradient_accumulation_steps": 999_999_937},
    ):
        with pytest.raises(InputError):
            SubsetGRPOConfig("out", use_cpu=True, bf16=False, report_to="none", **sizes)
    assert time.process_time() - started < 1


def test_a_model_larger_than_the_memory_is_refused() -> None:
    with pytest.raises(InputError, match=r"would have about [\d,]+ parameters, and this machine has memory for"):
        BuildModelConfig("out", hidden_size=2**16, num_hidden_layers=1000, num_attention_heads=2**12)


def test_the_arithmetic_world_knows_its_size() -> None:
    assert sum(map(split_size, SPLITS)) == 220 * 221 // 2  # pairs of multisets of three digits


BAD_YAML: dict[str, tuple[str | bytes, str]] = {
    "a key twice": ("seed: 1\nseed: 2\n", "key 'seed' is there twice"),
    "a key twice, nested": ("env: {A: 1, A: 2}\n", "key 'A' is there twice"),
    "an anchor in itself": ("k: &x [1, *x]\n", "line 1 contains itself"),
    "an anchor in itself, as mapping": ("k: &x {a: *x}\n", "line 1 contains itself"),
    "brackets, 3000 deep": ("k: " + "[" * 3000 + "]" * 3000, "nested more than 50 deep"),
    "brackets, 100 deep": ("k: " + "[" * 100 + "]" * 100, "nested more than 50 deep"),
    "mappings, 3000 deep": ("k: " + "{a: " * 3000 + "1" + "}" * 3000, "nested more than 50 deep"),
    "indentation, 200 deep": ("\n".join(" " * depth + "a:" for depth in range(200)), "nested more than 50 deep"),
    "anchors that multiply": (
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{name}: &{name} [{','.join([f'*{chr(ord(name) - 1)}'] * 10)}]\n" for name in "bcdefgh"),
        "anchors describe more than 10,000 values",
    ),
    "an integer of 5,000 digits": ("seed: " + "9" * 5000, "is not YAML"),
    "NUL": ("seed: \0", "is not YAML"),
    "UTF-16": ("seed: 1".encode("utf-16"), "is not YAML"),
    "an object of Python": ("seed: !!python/object/apply:os.system [ls]", "is not YAML"),
    "an impossible date": ("seed: 2026-99-99", "is not YAML"),
    "a list": ("- 1\n", "must be a mapping"),
    "nothing": ("", "must be a mapping"),
    "two megabytes": ("# " + "x" * 2**21, "bytes: name a YAML file of settings"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_yaml_that_is_not_one_small_mapping_is_refused(tmp_path: Path, name: str) -> None:
    content, message = BAD_YAML[name]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.process_time()
    with pytest.raises(InputError, match=message):
        read_yaml(path)
    assert time.process_time() - started < 1


def test_an_anchor_that_is_used_again_is_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: &x {b: [1, 2]}\nc:\n  <<: *x\n  d: 1\ne: *x\n")
    assert read_yaml(tmp_path / "recipe.yaml") == {"a": {"b": [1, 2]}, "c": {"b": [1, 2], "d": 1}, "e": {"b": [1, 2]}}


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "x/" * 3000, "loop"])
def test_paths_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="config file"):
        read_yaml(tmp_path / name)
    with pytest.raises(InputError, match="output_dir must be a path that the file system accepts"):
        SubsetGRPOConfig(str(tmp_path / name), use_cpu=True, bf16=False, report_to="none")


@pytest.mark.parametrize(
    ("environment", "accepted"),
    [
        ({"A": "b"}, True),
        ({"A": 1}, True),
        ({1: "b"}, False),
        ({"A=": "b"}, False),
        ({"A": "a\0"}, False),
        ("A", False),
    ],
)
def test_the_environment_of_a_recipe(
    environment: object, accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", {})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"env": environment, "tolerance": 0.5}))
    parser = StrictParser([CheckTRLConfig], allow_abbrev=False)
    if accepted:
        assert parser.parse(["--config", str(tmp_path / "recipe.yaml")])[0].tolerance == 0.5
    else:
        with pytest.raises(InputError, match="env must be a mapping"):
            parser.parse(["--config", str(tmp_path / "recipe.yaml")])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"a": {"min": 0, "max": 10**12}}, "more than 10,000 values"),
        ({name: {"min": 1, "max": 9_000} for name in "abcdef"}, "the grid has"),
        ({"a": {"min": 0, "max": 10**400}}, "both within"),
        ({"a": {"min": 0.0, "max": 1e300, "distribution": "log_uniform"}}, "both within"),
        ({"a": {"min": 0.0, "max": 1e10, "distribution": "log_uniform"}}, "has no grid"),
        ({"a": {"min": math.nan, "max": 1.0}}, "min must be a number below max"),
    ],
)
def test_sweeps_without_end_are_refused(tmp_path: Path, parameters: dict[str, object], message: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"method": "grid", "metric": {"name": "x"}, "parameters": parameters}))
    with pytest.raises(InputError, match=message):
        read_sweep(path)


@pytest.fixture(scope="module")
def home(model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions, models, and models that cannot be used."""
    home = tmp_path_factory.mktemp("home")
    rows = [{"problem": f"a={n}+1+1,b=1+1+1", "answer": f"{(n + 2) % 10}3"} for n in range(3)]
    (home / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "runs").mkdir()
    shutil.copytree(model_dir, home / "runs" / "model")
    changed_models: dict[str, Callable[[dict[str, Any]], object]] = {
        "no_template": lambda config: config.pop("chat_template", None),
        "no_pad": lambda config: config.update(pad_token=None),
        "no_system": lambda config: config.update(
            chat_template="{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
            "{% endif %}{% for message in messages %}<user>{{ message.content }}<assistant>{% endfor %}"
        ),
    }
    for name, change in changed_models.items():
        directory = home / "runs" / name
        shutil.copytree(model_dir, directory)
        (directory / "chat_template.jinja").unlink(missing_ok=True)
        config = json.loads((directory / "tokenizer_config.json").read_text())
        if name == "no_pad":
            config["chat_template"] = "{% for message in messages %}{{ message.content }}{% endfor %}"
        change(config)
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (home / "runs" / "lora").mkdir()
    adapter = {"base_model_name_or_path": "runs/model", "peft_type": "LORA"}
    (home / "runs" / "lora" / "adapter_config.json").write_text(json.dumps(adapter))
    (home / "runs" / "orphan").mkdir()
    (home / "runs" / "orphan" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "runs/gone"}))
    return home


REFUSED: dict[str, tuple[str, dict[str, object], str]] = {
    "fewer questions than a generation": (
        "train_grpo",
        {"per_device_train_batch_size": 64},
        "few.jsonl has 3 questions, but one generation needs 8: ",
    ),
    "a missing data directory": (
        "train_sft",
        {"dataset_name": "runs/data_sft"},
        "dataset_name runs/data_sft: there is no such directory or file",
    ),
    "a mistyped data directory": ("evaluate", {"dataset_name": "runs/modle"}, "did you mean runs/model?"),
    "a mistyped file": (
        "evaluate",
        {"dataset_name": "few.json"},
        "few.json: there is no such directory or file",
    ),
    "a mistyped model": ("train_grpo", {"model_name_or_path": "runs/modle"}, "did you mean runs/model?"),
    "a mistyped model, one level deep": ("evaluate", {"model_name_or_path": "rums/model/final"}, "did you mean runs/"),
    "a mistyped model among several": (
        "evaluate",
        {"models": ["runs/model", "runs/modle"], "max_completion_length": 2, "num_samples": 8},
        "model runs/modle cannot be loaded: there is no such directory or file; did you mean runs/model?",
    ),
    "no chat template": ("train_grpo", {"model_name_or_path": "runs/no_template"}, "has no chat template"),
    "no chat template, evaluate": ("evaluate", {"model_name_or_path": "runs/no_template"}, "has no chat template"),
    "a template without system turns": (
        "train_sft",
        {"model_name_or_path": "runs/no_system", "prompt_style": "conclusion"},
        "refuses prompt_style conclusion (System role not supported): take a prompt_style without a system turn",
    ),
    "no pad token": ("evaluate", {"model_name_or_path": "runs/no_pad"}, "no pad token, which batches of prompts need"),
    "a LoRA directory": (
        "train_grpo",
        {"model_name_or_path": "runs/lora"},
        "model runs/lora is an adapter of runs/model: set starting_adapter to merge",
    ),
    "a LoRA directory, sft": ("train_sft", {"model_name_or_path": "runs/lora"}, "set starting_adapter to merge"),
    "a LoRA directory and another": (
        "train_grpo",
        {"model_name_or_path": "runs/lora", "starting_adapter": "continue", "use_peft": "true"},
        "leave use_peft out, or set starting_adapter to merge",
    ),
    "a LoRA directory without its base": (
        "train_grpo",
        {"model_name_or_path": "runs/orphan", "starting_adapter": "merge"},
        "model runs/gone cannot be loaded: there is no such directory",
    ),
    "no adapter to merge": ("train_grpo", {"starting_adapter": "merge"}, "is no adapter: leave starting_adapter out"),
    "zero steps": ("train_grpo", {"max_steps": 0}, "max_steps must be -1 or a whole number from 1"),
    "checkpoints of each machine": (
        "train_sft",
        {"save_on_each_node": "true"},
        "save_on_each_node must be false, because the processes of all machines share output_dir, got True: ",
    ),
    "no directory": ("train_grpo", {"output_dir": ""}, "output_dir is missing"),
}


PROGRESS = re.compile(r"Loading weights: .*|Generating train split: .*")


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_start_prints_one_line_and_leaves_nothing_behind(
    name: str, start: Starter, home: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    command, settings, message = REFUSED[name]
    monkeypatch.chdir(home)
    given: dict[str, object] = {"model_name_or_path": "runs/model", "dataset_name": "few.jsonl", "prompt_style": "bare"}
    before = listing(home)
    ended = start(command, **{**given, "output_dir": "deep/down/out", **settings})
    assert ended.code == 2, ended.error
    assert message in ended.last_line
    assert ended.last_line.startswith(f"raml-trl {command}: ")
    assert [line for line in ended.error.splitlines() if line and not PROGRESS.fullmatch(line)] == [ended.last_line]
    assert [str(warning.message) for warning in recwarn if warning.category in SHOWN_WARNINGS] == []
    assert listing(home) == before


TEN_REFUSALS: list[tuple[str, Path | None, dict[str, object]]] = [
    ("train_grpo", None, {"max_steps": 0}),
    ("train_grpo", None, {"vllm_mode": "foo"}),
    ("train_grpo", None, {"prefix_keep": 1.5}),
    ("train_grpo", None, {"question_floor": 0}),
    ("train_grpo", None, {"rank_timeout": "nan"}),
    ("train_grpo", None, {"when_locked": "wiat"}),
    ("train_grpo", Path("twice.yaml"), {}),
    ("train_sft", None, {"learning_rate": "nan"}),
    ("evaluate", None, {"top_p": 2}),
    ("plan", None, {"device_memory": -1}),
]


def test_the_page_shows_ten_refused_starts(
    start: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("twice.yaml").write_text("seed: 1\nseed: 2\n")
    printed = ""
    for command, recipe, settings in TEN_REFUSALS:
        ended = start(command, recipe=recipe, **settings)
        assert ended.code == 2
        assert ended.error == f"{ended.last_line}\n"
        printed += ended.error
    assert_documented(printed)
    assert [str(warning.message) for warning in recwarn if warning.category in SHOWN_WARNINGS] == []
    assert [path.name for path in tmp_path.iterdir()] == ["twice.yaml"]


@pytest.mark.slow
@pytest.mark.children
@pytest.mark.parametrize("command", ["train_sft", "train_grpo", "evaluate"])
def test_a_refused_start_of_a_new_interpreter_prints_its_errors_only(command: str, tmp_path: Path) -> None:
    """Imports print nothing. DeepSpeed reports the kind of device on standard output. The data may be missing, too."""
    words = ["--config", str(TINY / f"{RECIPES[command]}.yaml"), "--model_name_or_path", "runs/nothing"]
    program = [sys.executable, "-m", f"raml_trl.{command}", *words, "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    *others, line = done.stderr.splitlines()
    assert all(other.startswith(f"raml-trl {command}: dataset_name runs/demo/data_") for other in others)
    assert line.startswith(
        f"raml-trl {command}: model runs/nothing cannot be loaded: there is no such directory or file"
    )
    assert not (tmp_path / "out").exists()


def test_an_empty_output_dir_of_a_recipe_is_refused(
    start: Starter, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would write to ./trainer_output."""
    monkeypatch.chdir(home)
    recipe = home / "null.yaml"
    recipe.write_text("output_dir: null\nmodel_name_or_path: runs/model\ndataset_name: few.jsonl\nuse_cpu: true\n")
    before = listing(home)
    ended = start("train_sft", recipe=recipe)
    assert ended.code == 2
    assert "output_dir is missing" in ended.last_line
    assert listing(home) == before


@pytest.mark.children
def test_the_largest_seed_works(start: Starter, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(home)
    settings = {"model_name_or_path": "runs/model", "dataset_name": "few.jsonl", "output_dir": tmp_path / "out"}
    ended = start("evaluate", **settings, seed=2**32 - 1, num_samples=8, max_completion_length=2, num_graders=1)
    assert ended.code == 0, ended.error
