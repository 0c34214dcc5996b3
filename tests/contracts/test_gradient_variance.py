"""The benchmark of the variance of the gradient agrees with formulas and with gradients that are computed directly."""

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.grpo.gradient_variance import GROUP, Group, log_probability, score_products, summarise, variances


def group(lengths: list[int], rewards: list[float]) -> Group:
    rng = np.random.default_rng(0)
    return Group([3, 4, 5], [rng.integers(8, 60, size=length).tolist() for length in lengths], np.array(rewards))


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=64, num_key_value_heads=2, **shape)).eval()


def test_log_probability_is_that_of_the_completion(model: Qwen2ForCausalLM) -> None:
    logits = model(torch.tensor([[3, 4, 5, 9, 8]])).logits[0].log_softmax(-1)
    expected = logits[2, 9] + logits[3, 8]
    torch.testing.assert_close(log_probability(model, [3, 4, 5], [9, 8]), expected)


def test_products_are_those_of_the_gradients(model: Qwen2ForCausalLM) -> None:
    rollouts = group([4, 9] * 4, [0.0, 1.0] * 4)
    rows = []
    for completion in rollouts.completions:
        gradients = torch.autograd.grad(log_probability(model, rollouts.prompt, completion), list(model.parameters()))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    expected = torch.stack(rows) @ torch.stack(rows).T
    found = score_products(model, rollouts)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=0.02, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("mean_of_row", [False, True])
def test_random_selection_has_the_variance_of_sampling_without_replacement(mean_of_row: bool) -> None:
    """The expected squared error of the mean of m of G vectors is (1/m - 1/G) times their sample variance."""
    rng = np.random.default_rng(1)
    rollouts = group([5, 9, 20, 40, 6, 11, 30, 7], [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    scores = rng.standard_normal((GROUP, 5))
    lengths = np.array([len(completion) for completion in rollouts.completions])
    gradients = scores * (rollouts.advantages / (lengths if mean_of_row else 1))[:, None]
    spread = gradients.var(axis=0, ddof=1).sum()
    rows = [row for row in variances(rollouts, scores @ scores.T, mean_of_row=mean_of_row) if row["p"] == "random"]
    assert [row["m"] for row in rows] == [2, 4]
    for row in rows:
        assert row["variance"] == pytest.approx((1 / row["m"] - 1 / GROUP) * spread, rel=0.1)
        assert row["tokens"] == pytest.approx(row["m"] * lengths.mean() + 3, rel=0.03)


def test_probabilities_that_follow_the_gradients_have_less_variance() -> None:
    rollouts = group([10] * GROUP, [1.0] + [0.0] * (GROUP - 1))
    rows = [{"loss": "sum", **row} for row in variances(rollouts, np.eye(GROUP), mean_of_row=False)]
    rows += [{**row, "loss": "row mean"} for row in rows]
    found = {(row["m"], row["p"]): row["together"] for row in summarise(rows, 0.0, 1.0) if row["loss"] == "sum"}
    assert found[2, "random"] == found[4, "random"] == 1
    assert found[2, "|A|"] < 0.5
    assert found[2, "|A|"] == pytest.approx(found[2, "|A| g / sqrt(cost)"], rel=0.05)  # all lengths are equal
