#!/usr/bin/env bash
# Train on one device, in the background.
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

USAGE="usage: bash scripts/run_standalone_train_ascend.sh [DEVICE_ID] [MINDRECORD_PATH] [LOAD_CHECKPOINT_PATH](optional)
In the environment: DEVICE_TARGET (default Ascend; CPU runs the same on a CPU), CONFIG_PATH (default configs/coco.yaml).
Writes into the current folder: training_log.txt, train_record.jsonl, loss.png, ckpt_0/, ms_log/."

[ $# -eq 2 ] || [ $# -eq 3 ] || usage_error "$USAGE"
[[ $1 =~ ^[0-9]+$ ]] || usage_error "DEVICE_ID is '$1', expected a number
$USAGE"
[ -d "$2" ] || usage_error "MINDRECORD_PATH is no folder: $2
$USAGE"
[ -z "${3:-}" ] || [ -f "$3" ] || usage_error "LOAD_CHECKPOINT_PATH is no file: $3
$USAGE"

in_background training_log.txt "$PYTHON" "$ROOT/train.py" --config_path "${CONFIG_PATH:-$ROOT/configs/coco.yaml}" \
    --device_target "${DEVICE_TARGET:-Ascend}" --device_id "$1" --mindrecord_dir "$2" --load_checkpoint_path "${3:-}"
