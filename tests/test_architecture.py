"""The house keeps its floors: a module imports from lower layers only, and the ground floor is light."""

import ast
import subprocess
import sys

import pytest
from conftest import REPOSITORY

import raml_trl.__main__

PACKAGE = REPOSITORY / "raml_trl"

LAYERS: list[set[str]] = [
    {"errors"},
    {
        "files",
        "trackers",
        "validation",
        "prompts",
        "provenance",
        "selection",
        "dealing",
        "accounting",
        "arithmetic",
        "intervals",
        "voting",
    }
    | {
        "answers",
        "choosing",
        "decontamination",
        "exact_numbers",
        "filtering",
        "json_client",
        "json_rows",
        "key_set",
        "sampling",
        "sentences",
    },
    {"equality", "pruning_methods", "statements"},
    {"grading", "memory", "metrics", "runs", "planning", "samples", "shards"},
    {"boxes", "cards", "columns", "grading_pool", "grading_worker"},
    {"model_arguments", "plan_arguments", "result_arguments", "table_arguments"}
    | {"clusters", "completion_cards", "curves", "token_effects"},
    {
        "configs",
        "data_arguments",
        "rewards",
        "training_arguments",
        "advantages",
        "batching",
        "checkpoints",
        "figures",
        "hub",
        "model_cards",
        "models",
        "answer_losses",
        "directions",
        "prefix_cache",
    }
    | {"dashboards", "seam", "server_engine", "tables", "transformers_engine", "vllm_engine", "wandb_panels"},
    {"arrow_cache", "comparison", "curve_figures", "forced_answers", "frontier"}
    | {"landscape", "likelihood", "pages", "publishing", "sampling_arguments"},
    {"analysis_arguments", "data", "engines", "landscape_figures"},
    {"examples", "screening", "sharded_sampling", "trajectory_tokens"},
    {"analysis_tasks", "in_training", "thinking"},
    {"hub_trainer", "pruning"},
    {"pruned_rows"},
    {"trainer", "sft_trainer", "lifecycle", "command_line"},
    {"plan_inputs", "plan_memory", "sweeps"},
    {"measures", "studies", "sweep_results"},
    {"claims", "measured_settings", "trials"},
    {"break_even", "weighed_figures"},
    {"report_runs", "report_tables"},
    {"report_curves", "report_page", "report_time", "report_time_tables"},
    {"report_stages", "report_sweeps"},
    {"report_combinations", "report_samples"},
    {"report_numbers"},
    {"report_sections"},
    {"build_model", "prepare_data", "sample_trajectories", "train_sft", "train_grpo", "evaluate", "report", "plan"}
    | {"compare", "loss_landscape", "pseudo_gradient", "sweep", "trajectory_pruning", "wandb_report", "weigh_claims"},
    {"__main__", "__init__"},
]
LIGHT = set().union(*LAYERS[:6])
COMMANDS = LAYERS[-2]
HEAVY = ("torch", "trl", "transformers", "datasets")


def imports(module: str) -> set[str]:
    """Names of what a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return names


def of_package(module: str) -> set[str]:
    return {name.split(".")[1] for name in imports(module) if name.startswith("raml_trl.")} & set().union(*LAYERS)


def test_every_module_has_a_layer() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == set().union(*LAYERS)


@pytest.mark.parametrize("layer", range(len(LAYERS) - 1))
def test_imports_go_down(layer: int) -> None:
    below = set().union(*LAYERS[:layer])
    for module in LAYERS[layer]:
        assert of_package(module) <= below, f"{module} imports {sorted(of_package(module) - below)}"


def test_the_ground_floor_is_light() -> None:
    for module in LIGHT:
        assert not {name.split(".")[0] for name in imports(module)} & set(HEAVY), module
    modules = ", ".join(f"raml_trl.{module}" for module in sorted(LIGHT))
    check = f"import sys, raml_trl, {modules}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_grader_knows_math_verify() -> None:
    users = {module for layer in LAYERS for module in layer if any("math_verify" in name for name in imports(module))}
    assert users == {"grading"}


def test_nothing_is_printed() -> None:
    for layer in LAYERS:
        for module in layer:
            calls = [node for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())) if _is_print(node)]
            assert not calls, module


def _is_print(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"


def test_every_command_is_offered() -> None:
    assert set(raml_trl.__main__.COMMANDS) == COMMANDS


def test_departures_from_trl_are_marked_and_call_super() -> None:
    source = (PACKAGE / "trainer.py").read_text()
    assert source.count("# RaML:") >= 5
    [trainer] = [node for node in ast.parse(source).body if getattr(node, "name", None) == "SubsetGRPOTrainer"]
    from trl import GRPOTrainer

    overrides = [node for node in trainer.body if isinstance(node, ast.FunctionDef) and hasattr(GRPOTrainer, node.name)]
    assert {node.name for node in overrides} >= {"_prepare_inputs", "_compute_loss", "_generate_and_score_completions"}
    for node in overrides:
        assert f"super().{node.name}(" in ast.unparse(node), node.name
