#!/usr/bin/env bash
# Evaluate a checkpoint on one device, in the background.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

USAGE="usage: bash scripts/run_standalone_eval_ascend.sh [DEVICE_ID] [RUN_MODE] [DATA_DIR] [LOAD_CHECKPOINT_PATH] [--PARAMETER VALUE ...]
RUN_MODE is val (detect and score) or test (detect).
Environment variables: DEVICE_TARGET (Ascend or CPU; default: from the configuration), CONFIG_PATH (a file with
changes to default_config.yaml). With --visual_image true, detections are drawn next to the ground truth.
Output in the current folder: eval_log.txt, val/ or test/, ms_log/."

split_arguments 4 4 "$@"
set -- ${POSITIONAL[@]+"${POSITIONAL[@]}"}
[[ $1 =~ ^[0-9]+$ ]] || usage_error "DEVICE_ID is '$1', expected a number
$USAGE"
[ "$2" = val ] || [ "$2" = test ] || usage_error "RUN_MODE is '$2', expected val or test
$USAGE"
[ -d "$3" ] || usage_error "DATA_DIR is not a folder: $3
$USAGE"

configuration
in_background eval_log.txt eval.py ${CONFIGURATION[@]+"${CONFIGURATION[@]}"} ${DEVICE[@]+"${DEVICE[@]}"} \
    --run_dir . --device_id "$1" --run_mode "$2" --data_dir "$3" "--load_checkpoint_path=$4" ${OPTIONS[@]+"${OPTIONS[@]}"}
