#!/usr/bin/env bash
# The two dials over five seeds: K trajectories per question in SFT, m of 8 rollouts in GRPO. About 45 minutes on one core;
# interrupted, it carries on. Ends by writing what recipes/tiny/dials.json holds to runs/dials/dials.json.
set -euo pipefail
export OMP_NUM_THREADS=1
cd "$(dirname "$0")/../.."
recipes=recipes/tiny
run() { .venv/bin/python -m "raml_trl.$1" --config "$recipes/$2.yaml" "${@:3}"; }

for seed in 0 1 2 3 4; do
  home=runs/dials/seed-$seed
  run build_model model --seed "$seed" --output_dir "$home/model"
  run prepare_data data_sft --seed "$seed" --output_dir "$home/data_sft"
  run prepare_data data_grpo --seed "$seed" --output_dir "$home/data_grpo"
  run prepare_data data_test --output_dir "$home/data_test"
  for k in 4 1 2 8; do
    run train_sft sft --seed "$seed" --num_trajectories "$k" --save_strategy no \
      --model_name_or_path "$home/model" --dataset_name "$home/data_sft" --output_dir "$home/sft-k$k"
    run evaluate eval --dataset_name "$home/data_test" \
      --model_name_or_path "$home/sft-k$k" --output_dir "$home/eval-sft-k$k"
  done
  for m in 1 2 4 8; do
    run train_grpo grpo --seed "$seed" --num_generations_update "$m" --save_strategy no \
      --model_name_or_path "$home/sft-k4" --dataset_name "$home/data_grpo" --output_dir "$home/grpo-m$m"
    run evaluate eval --dataset_name "$home/data_test" \
      --model_name_or_path "$home/grpo-m$m" --output_dir "$home/eval-grpo-m$m"
  done
done

.venv/bin/python - runs/dials <<'PYTHON'
import json, sys
from pathlib import Path

home = Path(sys.argv[1])
dials = {}
for stage in ("sft-k1", "sft-k2", "sft-k4", "sft-k8", "grpo-m1", "grpo-m2", "grpo-m4", "grpo-m8"):
    seeds = sorted(home.glob(f"seed-*/eval-{stage}/metrics.json"))
    metrics = [json.loads(path.read_text())["metrics"] for path in seeds]
    dials[stage] = {name: [round(one[name]["mean"], 4) for one in metrics] for name in metrics[0]}
    if stage.startswith("grpo"):  # how far the 10-step mean of correct rollouts fell below what it had reached
        dials[stage]["deepest_drop"] = []
        for path in sorted(home.glob(f"seed-*/{stage}/trainer_state.json")):
            correct = [log["correct"] for log in json.loads(path.read_text())["log_history"] if "correct" in log]
            smooth = [sum(correct[end - 10 : end]) / 10 for end in range(10, len(correct) + 1)]
            drop = max(max(smooth[: step + 1]) - value for step, value in enumerate(smooth))
            dials[stage]["deepest_drop"].append(round(drop, 4))
(home / "dials.json").write_text(json.dumps(dials, indent=2) + "\n")
PYTHON
