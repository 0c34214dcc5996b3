#!/usr/bin/env bash
# Compare selection strategies: 2 of 8 rollouts by every strategy over three seeds, 100 steps of GRPO each, from the
# SFT model of the seed. Takes about 40 minutes on one core beside other work and resumes after an interruption.
# Writes the content of recipes/tiny/claims/selection.json to runs/selection/selection.json, and a report with curves
# to runs/selection/report.
set -euo pipefail
export OMP_NUM_THREADS=1
cd "$(dirname "$0")/../../.."
recipes=recipes/tiny/demo
run() { .venv/bin/python -m "raml_trl.$1" --config "$recipes/$2.yaml" "${@:3}"; }

grpo() { # name, options of train_grpo
  run train_grpo grpo --seed "$seed" --max_steps 100 --save_strategy no --model_name_or_path "$home/sft" \
    --dataset_name "$home/data_grpo" --output_dir "$home/$1" "${@:2}"
  run evaluate eval --dataset_name "$home/data_test" --model_name_or_path "$home/$1" --output_dir "$home/eval-$1"
}

for seed in 0 1 2; do
  home=runs/selection/seed-$seed
  run build_model model --seed "$seed" --output_dir "$home/model"
  run prepare_data data_sft --seed "$seed" --output_dir "$home/data_sft"
  run prepare_data data_grpo --seed "$seed" --output_dir "$home/data_grpo"
  run prepare_data data_test --output_dir "$home/data_test"
  run train_sft sft --seed "$seed" --save_strategy no \
    --model_name_or_path "$home/model" --dataset_name "$home/data_sft" --output_dir "$home/sft"
  run evaluate eval --dataset_name "$home/data_test" --model_name_or_path "$home/sft" --output_dir "$home/eval-sft"
  grpo all --num_generations_update 8
  for strategy in random first balanced max_variance abs_advantage importance; do
    grpo "$strategy" --num_generations_update 2 --selection "$strategy"
  done
  for strategy in abs_advantage importance; do
    grpo "$strategy-batch" --num_generations_update 2 --selection "$strategy" --selection_scope batch
  done
done

.venv/bin/python - runs/selection <<'PYTHON'
import json, sys
from pathlib import Path

home = Path(sys.argv[1])
order = "sft all random first balanced max_variance abs_advantage importance abs_advantage-batch importance-batch".split()
table = {}
for name in order:
    paths = sorted(home.glob(f"seed-*/eval-{name}/metrics.json"))
    metrics = [json.loads(path.read_text())["metrics"] for path in paths]
    table[name] = {metric: [round(row[metric]["mean"], 4) for row in metrics] for metric in metrics[0]}
    summaries = [json.loads(path.read_text()) for path in sorted(home.glob(f"seed-*/{name}/summary.json"))]
    if summaries:
        table[name]["rows_trained"] = [summary["counts"]["trained"] for summary in summaries]
(home / "selection.json").write_text(json.dumps(table, indent=2) + "\n")
PYTHON

stages=(all random first balanced max_variance abs_advantage importance abs_advantage-batch importance-batch)
.venv/bin/raml-trl report --output_dir runs/selection/report --title "Which 2 of 8 rollouts?" \
  --evaluations $(printf '%s ' sft=runs/selection/seed-0/eval-sft; for s in "${stages[@]}"; do echo "$s=runs/selection/seed-0/eval-$s"; done) \
  --runs $(for s in "${stages[@]}"; do echo "$s=runs/selection/seed-0/$s"; done)
