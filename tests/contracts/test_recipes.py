"""The command or launcher that reads a YAML file of the repository accepts it."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from raml_trl.analysis.config import LossLandscapeConfig, PseudoGradientConfig, TrajectoryPruningConfig
from raml_trl.build_model import BuildModelConfig
from raml_trl.compare_rules import CompareRulesConfig
from raml_trl.data.config import PrepareDataConfig
from raml_trl.grpo.config import CheckedGRPOConfig
from raml_trl.grpo.dataset import GRPOArguments
from raml_trl.grpo.planning.config import PlanConfig
from raml_trl.report import ReportConfig
from raml_trl.runtime.cli import StrictParser
from raml_trl.sampling.config import EvaluateConfig, SampleTrajectoriesConfig
from raml_trl.sft.config import CheckedSFTConfig, SFTArguments
from raml_trl.training.config import CheckedModelConfig
from raml_trl.weigh_claims import WeighClaimsConfig
from tests.helpers import REPOSITORY

RECIPES = sorted(
    path
    for path in (REPOSITORY / "recipes").rglob("*.yaml")
    if path.parent.name != "sweeps" and path.stem.split("_")[0] not in ("claims", "rules")
)
LAUNCHERS = sorted((REPOSITORY / "accelerate_configs").glob("*.yaml"))

# The option classes that read a recipe, by the first word of its file name.
READERS = {
    "model": [BuildModelConfig],
    "data": [PrepareDataConfig],
    "sample": [SampleTrajectoriesConfig],
    "sft": [SFTArguments, CheckedSFTConfig, CheckedModelConfig],
    "grpo": [GRPOArguments, CheckedGRPOConfig, CheckedModelConfig],
    "eval": [EvaluateConfig],
    "report": [ReportConfig],
    "loss": [LossLandscapeConfig],
    "pseudo": [PseudoGradientConfig],
    "trajectory": [TrajectoryPruningConfig],
    "plan": [PlanConfig],
    "weigh": [WeighClaimsConfig],
    "compare": [CompareRulesConfig],
}


def reader(recipe: Path) -> list[type]:
    if recipe.parent.name in ("data", "benchmarks"):
        return READERS[{"data": "data", "benchmarks": "eval"}[recipe.parent.name]]
    words = recipe.stem.split("_")
    return READERS[words[0]]


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 33
    assert [path.stem for path in LAUNCHERS] == ["cpu", "ddp", "fsdp2", "single_gpu", "zero1", "zero2", "zero3"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipe_is_understood(recipe: Path) -> None:
    # Override settings that need a GPU or a tracker, which this machine may not have.
    without = ["--use_cpu", "true", "--report_to", "none"] if CheckedModelConfig in reader(recipe) else []
    if recipe.parent.name == "benchmarks":  # these recipes leave the model to the command line
        without += ["--model_name_or_path", "m", "--output_dir", "o"]
    StrictParser(reader(recipe), allow_abbrev=False).parse(["--config", str(recipe), *without])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipe_with_a_key_too_many_is_not(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe.read_text() + "\nsurely_no_such_field: 1\n")
    with pytest.raises(ValueError, match="unknown key 'surely_no_such_field'"):
        StrictParser(reader(recipe), allow_abbrev=False).parse(["--config", str(tmp_path / "recipe.yaml")])


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda path: path.stem)
def test_launcher_is_understood(launcher: Path) -> None:
    config = load_config_from_file(str(launcher))
    written = yaml.safe_load(launcher.read_text())
    assert config.num_processes == written["num_processes"]
    assert str(config.distributed_type.value) == written["distributed_type"]


@pytest.mark.parametrize(
    "recipe", [path for path in RECIPES if path.stem.endswith("model")], ids=lambda path: path.stem
)
def test_vllm_could_serve_the_models_we_build(recipe: Path) -> None:
    [config] = StrictParser([BuildModelConfig], allow_abbrev=False).parse(["--config", str(recipe)])
    assert config.hidden_size // config.num_attention_heads >= 32


def test_paper_settings() -> None:
    grpo = yaml.safe_load((REPOSITORY / "recipes/qwen2.5-7b/grpo.yaml").read_text())
    gpus = yaml.safe_load((REPOSITORY / "accelerate_configs/zero3.yaml").read_text())["num_processes"]
    rollouts = gpus * grpo["per_device_train_batch_size"] * grpo["steps_per_generation"]
    assert rollouts == 1024 * grpo["num_generations"] == 1024 * 16
    sft = yaml.safe_load((REPOSITORY / "recipes/qwen2.5-7b/sft.yaml").read_text())
    assert gpus * sft["per_device_train_batch_size"] * sft["gradient_accumulation_steps"] == 256
