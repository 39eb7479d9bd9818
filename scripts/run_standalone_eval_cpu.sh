#!/usr/bin/env bash
# Evaluate a checkpoint on the CPU, in the background.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

USAGE="usage: bash scripts/run_standalone_eval_cpu.sh [RUN_MODE] [DATA_DIR] [LOAD_CHECKPOINT_PATH] [--PARAMETER VALUE ...]
RUN_MODE is val (detect and score) or test (detect).
Environment variable: CONFIG_PATH (a file with changes to default_config.yaml).
Output in the current folder: eval_log.txt, val/ or test/, ms_log/."

split_arguments 3 3 "$@"
set -- ${POSITIONAL[@]+"${POSITIONAL[@]}"}
[ "$1" = val ] || [ "$1" = test ] || usage_error "RUN_MODE is '$1', expected val or test
$USAGE"
[ -d "$2" ] || usage_error "DATA_DIR is not a folder: $2
$USAGE"

DEVICE_TARGET=CPU
configuration
in_background eval_log.txt eval.py ${CONFIGURATION[@]+"${CONFIGURATION[@]}"} "${DEVICE[@]}" --run_dir . --run_mode "$1" \
    --data_dir "$2" "--load_checkpoint_path=$3" ${OPTIONS[@]+"${OPTIONS[@]}"}
