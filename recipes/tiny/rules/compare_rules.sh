#!/usr/bin/env bash
# Compare ways to choose rollouts, tokens and questions at equal cost. Makes a model after SFT for each of seven seeds in
# two worlds, then tunes and compares the arms of rules_mixed.yaml and of rules_arithmetic.yaml. Resumes after an interruption.
#
#   make compare-rules
set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
cd "$(dirname "$0")/../../.."
export DEMO=recipes/tiny/demo RULES=recipes/tiny/rules STARTS=runs/tiny/rules_starts

starts() {
  set -euo pipefail
  run() { python -m "raml_trl.$1" --config "$2.yaml" --seed "$seed" "${@:3}" > /dev/null; }
  seed=$1 plain=$STARTS/arithmetic/seed-$1 mixed=$STARTS/arithmetic_mixed/seed-$1
  run build_model "$DEMO/model" --output_dir "$plain/model"
  run prepare_data "$DEMO/data_sft" --output_dir "$plain/data_sft"
  run prepare_data "$RULES/data_sft_mixed" --output_dir "$mixed/data_sft"
  run prepare_data "$DEMO/data_grpo" --num_questions 128 --output_dir "$plain/data_grpo"
  run prepare_data "$DEMO/data_grpo" --dataset_name arithmetic_mixed --num_questions 128 --output_dir "$mixed/data_grpo"
  run train_sft "$DEMO/sft" --model_name_or_path "$plain/model" --dataset_name "$plain/data_sft" --save_strategy no \
    --output_dir "$plain/sft"
  run train_sft "$RULES/sft_mixed" --model_name_or_path "$plain/sft" --dataset_name "$mixed/data_sft" \
    --output_dir "$mixed/sft"
}
export -f starts

for world in arithmetic arithmetic_mixed; do
  raml-trl prepare_data "$DEMO/data_test.yaml" --dataset_name $world --num_questions 120 \
    --output_dir "$STARTS/$world/data_test"
done
printf '%s\n' 0 1 2 3 4 101 102 | xargs -P 2 -I SEED bash -c 'starts SEED'
raml-trl compare_rules "$RULES/compare_mixed.yaml"
raml-trl compare_rules "$RULES/compare_arithmetic.yaml"
