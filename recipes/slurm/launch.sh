#!/bin/bash
# Runs a launcher, and passes SIGUSR1 on to the processes that it has started. The launcher itself does not handle SIGUSR1.
#
#   recipes/slurm/launch.sh accelerate launch --config_file accelerate_configs/zero3.yaml -m raml_trl.train_grpo ...
set -uo pipefail

(trap '' USR1; exec "$@") &
launcher=$!
trap 'pkill -USR1 -P "$launcher"' USR1
trap 'kill -TERM "$launcher"' TERM

# A signal interrupts `wait`, so wait again until the launcher has ended.
while kill -0 "$launcher" 2> /dev/null; do
  wait "$launcher"
done
wait "$launcher"
