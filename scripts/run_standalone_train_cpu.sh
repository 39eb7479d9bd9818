#!/usr/bin/env bash
# Train on the CPU, in the background.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

USAGE="usage: bash scripts/run_standalone_train_cpu.sh [MINDRECORD_DIR] [LOAD_CHECKPOINT_PATH](optional) [--PARAMETER VALUE ...]
LOAD_CHECKPOINT_PATH is the checkpoint for fine-tuning; with --resume true, the one to resume from.
Environment variable: CONFIG_PATH (a file with changes to default_config.yaml).
Output in the current folder: training_log.txt, train_record.jsonl, loss.png, ckpt_0/, ms_log/."

split_arguments 1 2 "$@"
set -- ${POSITIONAL[@]+"${POSITIONAL[@]}"}
[ -d "$1" ] || usage_error "MINDRECORD_DIR is not a folder (create it with scripts/convert_dataset_to_mindrecord.sh): $1
$USAGE"
arguments=(--run_dir . --distribute false --mindrecord_dir "$1")
checkpoint=$(none_if_blank "${2:-}")
[ -z "$checkpoint" ] || arguments+=("--load_checkpoint_path=$checkpoint")

DEVICE_TARGET=CPU
configuration
in_background training_log.txt train.py ${CONFIGURATION[@]+"${CONFIGURATION[@]}"} "${DEVICE[@]}" "${arguments[@]}" \
    ${OPTIONS[@]+"${OPTIONS[@]}"}
