"""Training that starts from an adapter (LoRA): merged into its base, or continued."""

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.disturbed.commands import Starter


@pytest.fixture(scope="module")
def home(model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with weights other than zero, without a tokenizer of its own, and questions."""
    home = tmp_path_factory.mktemp("adapters")
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(home / "lora")
    rows = [{"problem": f"a={n}+1+1,b=1+1+1", "answer": f"{(n + 2) % 10}3"} for n in range(4)]
    rows = [row | {"generations": [f"<think></think>\\boxed{{{row['answer']}}}"], "labels": [1]} for row in rows]
    (home / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


SHORT = {
    "per_device_train_batch_size": 16,
    "max_steps": 1,
    "learning_rate": 0,  # the model that is saved is the one that training started from
    "disable_tqdm": "true",
    "num_trajectories": 1,
    "prompt_style": "bare",
}


@pytest.mark.slow
@pytest.mark.disturbance("settings")
@pytest.mark.children
@pytest.mark.parametrize("command", ["train_sft", "train_grpo"])
@pytest.mark.parametrize("how", ["merge", "continue"])
def test_training_starts_from_the_adapter(
    how: str, command: str, start: Starter, home: Path, tmp_path: Path, model_dir: str
) -> None:
    settings = {**SHORT, "beta": 0.1} if command == "train_grpo" else SHORT
    settings = {name: value for name, value in settings.items() if not (command == "train_grpo" and "traj" in name)}
    ended = start(
        command,
        model_name_or_path=home / "lora",
        dataset_name=home / "data.jsonl",
        output_dir=tmp_path / "out",
        starting_adapter=how,
        **settings,
    )
    assert ended.code == 0, ended.error
    adapted = AutoPeftModelForCausalLM.from_pretrained(str(home / "lora"))
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        expected = adapted(tokens).logits
        plain = AutoModelForCausalLM.from_pretrained(model_dir)(tokens).logits
        load = AutoPeftModelForCausalLM if how == "continue" else AutoModelForCausalLM
        found = load.from_pretrained(str(tmp_path / "out"))(tokens).logits
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(plain, expected, atol=1e-3)
    assert (tmp_path / "out" / "_merged").is_dir() == (how == "merge")
    assert (tmp_path / "out" / "adapter_config.json").exists() == (how == "continue")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == len(AutoTokenizer.from_pretrained(model_dir))
    if command == "train_grpo":  # the reference model is the model that training starts from
        state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
        assert abs(state["log_history"][0]["kl"]) < 1e-6
    if how == "continue":
        before, after = (load_file(path / "adapter_model.safetensors") for path in (home / "lora", tmp_path / "out"))
        assert all(torch.equal(before[name], after[name]) for name in before)
