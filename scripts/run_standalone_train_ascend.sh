#!/usr/bin/env bash
# Train on one device, in the background.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

USAGE="usage: bash scripts/run_standalone_train_ascend.sh [DEVICE_ID] [MINDRECORD_PATH] [LOAD_CHECKPOINT_PATH](optional) [--PARAMETER VALUE ...]
LOAD_CHECKPOINT_PATH is the checkpoint for fine-tuning; with --resume true, the one to resume from.
Environment variables: DEVICE_TARGET (Ascend or CPU; default: from the configuration), CONFIG_PATH (a file with
changes to default_config.yaml; configs/coco.yaml has the model zoo's schedule for one device).
Output in the current folder: training_log.txt, train_record.jsonl, loss.png, ckpt_0/, ms_log/."

split_arguments 2 3 "$@"
set -- ${POSITIONAL[@]+"${POSITIONAL[@]}"}
[[ $1 =~ ^[0-9]+$ ]] || usage_error "DEVICE_ID is '$1', expected a number
$USAGE"
[ -d "$2" ] || usage_error "MINDRECORD_PATH is not a folder (create it with scripts/convert_dataset_to_mindrecord.sh): $2
$USAGE"
arguments=(--run_dir . --distribute false --device_id "$1" --mindrecord_dir "$2")
checkpoint=$(none_if_blank "${3:-}")
[ -z "$checkpoint" ] || arguments+=("--load_checkpoint_path=$checkpoint")

configuration
in_background training_log.txt train.py ${CONFIGURATION[@]+"${CONFIGURATION[@]}"} ${DEVICE[@]+"${DEVICE[@]}"} "${arguments[@]}" \
    ${OPTIONS[@]+"${OPTIONS[@]}"}
