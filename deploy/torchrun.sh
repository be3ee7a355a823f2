#!/usr/bin/env bash
# Train the job in FOLDER on this machine, one of several. Every machine runs the same command:
#   MACHINES=2 GPUS=8 MEET_AT=first-host:29500 deploy/torchrun.sh FOLDER
# FOLDER is written by `kedro training-job FOLDER --processes=16`. All machines must share it, the
# project's data/ and the model's weights, under the same paths.
set -euo pipefail
folder=${1:?give the folder that kedro training-job wrote}
: "${MACHINES:?number of machines}" "${GPUS:?GPUs of each}" "${MEET_AT:?host:port of the first}"
exec torchrun --nnodes="$MACHINES" --nproc-per-node="$GPUS" \
  --rdzv-backend=c10d --rdzv-id="the-block-$(basename "$folder")" --rdzv-endpoint="$MEET_AT" \
  --max-restarts=0 --module the_block_llm.pipelines.qlora_train.launch.worker "$folder"
