#!/usr/bin/env bash
# Offline inference with an exported MindIR file: preprocess, infer, postprocess; ends with the COCO table.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

USAGE="usage: bash scripts/run_infer_310.sh [MINDIR_PATH] [DATASET_PATH] [NEED_PREPROCESS] [DEVICE_ID](optional)
DATASET_PATH is a COCO-format data set, NEED_PREPROCESS y or n (n: the inputs of an earlier run are used again), DEVICE_ID 0 if not given.
In the environment: DEVICE_TARGET (Ascend or CPU; default: what the configuration says), CONFIG_PATH (a file that states what differs from
default_config.yaml).
Writes into the current folder: preprocess_Result/, result_Files/, val/, and preprocess.log, infer.log, acc.log."

expect_arguments 3 4 $#
[ -f "$1" ] || usage_error "MINDIR_PATH is no file: $1
$USAGE"
[ -d "$2" ] || usage_error "DATASET_PATH is no folder: $2
$USAGE"
[ "$3" = y ] || [ "$3" = n ] || usage_error "NEED_PREPROCESS is '$3', expected y or n
$USAGE"
device=${4:-0}
[[ $device =~ ^[0-9]+$ ]] || usage_error "DEVICE_ID is '$device', expected a number
$USAGE"
configuration

# logged LOG COMMAND...: run it, its output on the terminal and in LOG; its failure ends the script with its exit code.
logged() {
    local log=$1
    shift
    back_up_existing "$log"
    echo "CenterNet on MindSpore: $log" > "$log"
    set +e
    "$@" 2>&1 | tee -ia "$log" # -i: Ctrl-C ends the command, whose last words are written
    local code=${PIPESTATUS[0]}
    set -e
    [ "$code" -eq 0 ] || exit "$code"
}

require_ours preprocess.log infer.log acc.log
if [ "$3" = y ]; then
    logged preprocess.log "$PYTHON" "$ROOT/preprocess.py" ${CONFIGURATION[@]+"${CONFIGURATION[@]}"} --mindir_path "$1" --val_data_dir "$2" \
        --predict_dir preprocess_Result
elif [ ! -f preprocess_Result/meta/inputs.json ]; then
    usage_error "NEED_PREPROCESS is n, and there is no preprocess_Result/meta/inputs.json of an earlier run here"
fi
logged infer.log "$PYTHON" "$ROOT/tools/infer_mindir.py" --mindir "$1" --input_dir preprocess_Result/data --result_path result_Files \
    --device_target "${DEVICE_TARGET:-auto}" --device_id "$device"
logged acc.log "$PYTHON" "$ROOT/postprocess.py" ${CONFIGURATION[@]+"${CONFIGURATION[@]}"} --result_path result_Files \
    --label_path "$2" --meta_path preprocess_Result/meta
