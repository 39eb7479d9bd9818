#!/usr/bin/env bash
# Train on one device, in the background.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

USAGE="usage: bash scripts/run_standalone_train_ascend.sh [DEVICE_ID] [MINDRECORD_PATH] [LOAD_CHECKPOINT_PATH](optional) [--PARAMETER VALUE ...]
LOAD_CHECKPOINT_PATH is what fine-tuning starts from; with --resume true, the training that goes on.
In the environment: DEVICE_TARGET (Ascend or CPU; default: what the configuration says), CONFIG_PATH (a file that states what differs from
default_config.yaml; configs/coco.yaml is the model zoo's schedule on one device).
Writes into the current folder: training_log.txt, train_record.jsonl, loss.png, ckpt_0/, ms_log/."

split_words 2 3 "$@"
set -- ${POSITIONAL[@]+"${POSITIONAL[@]}"}
[[ $1 =~ ^[0-9]+$ ]] || usage_error "DEVICE_ID is '$1', expected a number
$USAGE"
[ -d "$2" ] || usage_error "MINDRECORD_PATH is no folder (scripts/convert_dataset_to_mindrecord.sh makes one): $2
$USAGE"
words=(--distribute false --device_id "$1" --mindrecord_dir "$2")
checkpoint=$(none_if_blank "${3:-}")
[ -z "$checkpoint" ] || words+=("--load_checkpoint_path=$checkpoint")

configuration
in_background training_log.txt train.py ${CONFIGURATION[@]+"${CONFIGURATION[@]}"} ${DEVICE[@]+"${DEVICE[@]}"} "${words[@]}" \
    ${OPTIONS[@]+"${OPTIONS[@]}"}
