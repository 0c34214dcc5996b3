#!/usr/bin/env bash
# Test the paper's claims in miniature. Prepares a model, data and a base model after SFT (K = 4) for each of five seeds, then
# runs every sweep of recipes/tiny/sweeps. Resumes after an interruption.
#
#   make reproduce
set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
cd "$(dirname "$0")/../../.."
export RECIPES=recipes/tiny WORLDS=runs/tiny/worlds

world() {
  set -euo pipefail
  run() { python -m "raml_trl.$1" --config "$RECIPES/demo/$2.yaml" --seed "$seed" "${@:3}" > /dev/null; }
  seed=$1 home=$WORLDS/seed-$1
  run build_model model --output_dir "$home/model"
  run prepare_data data_sft --output_dir "$home/data_sft"
  run prepare_data data_grpo --output_dir "$home/data_grpo"
  for questions in 1024 2048 4096; do
    run prepare_data data_sft --num_questions "$questions" --num_trajectories 1 --output_dir "$home/data_sft-$questions"
  done
  run train_sft sft --model_name_or_path "$home/model" --dataset_name "$home/data_sft" --save_strategy no \
    --output_dir "$home/sft"
}
export -f world

raml-trl prepare_data "$RECIPES/demo/data_test.yaml" --output_dir "$WORLDS/data_test"
printf '%s\n' 0 1 2 3 4 | xargs -P 2 -I SEED bash -c 'world SEED'
for sweep in "$RECIPES"/sweeps/*.yaml; do
  raml-trl sweep "$sweep" --agents 2
done
raml-trl weigh_claims "$RECIPES/claims/weigh_claims.yaml"
