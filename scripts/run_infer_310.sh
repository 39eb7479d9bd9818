#!/usr/bin/env bash
# Offline inference with an exported MindIR file: preprocess, infer, postprocess; prints the COCO table.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

USAGE="usage: bash scripts/run_infer_310.sh [MINDIR_PATH] [DATASET_PATH] [NEED_PREPROCESS] [DEVICE_ID](optional)
DATASET_PATH is a COCO-format data set; NEED_PREPROCESS is y, or n to reuse the inputs of an earlier run; DEVICE_ID is 0 by default.
Environment variables: DEVICE_TARGET (Ascend or CPU; default: from the configuration), CONFIG_PATH (a file with
changes to default_config.yaml).
Output in the current folder: preprocess_Result/, result_Files/, val/, and preprocess.log, infer.log, acc.log."

expect_arguments 3 4 $#
[ -f "$1" ] || usage_error "MINDIR_PATH is not a file: $1
$USAGE"
[ -d "$2" ] || usage_error "DATASET_PATH is not a folder: $2
$USAGE"
[ "$3" = y ] || [ "$3" = n ] || usage_error "NEED_PREPROCESS is '$3', expected y or n
$USAGE"
device=${4:-0}
[[ $device =~ ^[0-9]+$ ]] || usage_error "DEVICE_ID is '$device', expected a number
$USAGE"
configuration

# logged LOG COMMAND...: run COMMAND with its output on the terminal and in LOG; exit with its code if it fails.
logged() {
    local log=$1
    shift
    back_up_existing "$log"
    echo "CenterNet on MindSpore: $log" > "$log"
    set +e
    "$@" 2>&1 | tee -ia "$log" # -i: Ctrl-C ends the command only, and its last output is still written
    local code=${PIPESTATUS[0]}
    set -e
    [ "$code" -eq 0 ] || exit "$code"
}

require_ours preprocess.log infer.log acc.log
if [ "$3" = y ]; then
    logged preprocess.log "$PYTHON" "$ROOT/preprocess.py" ${CONFIGURATION[@]+"${CONFIGURATION[@]}"} --mindir_path "$1" --val_data_dir "$2" \
        --predict_dir preprocess_Result
elif [ ! -f preprocess_Result/meta/inputs.json ]; then
    usage_error "NEED_PREPROCESS is n, but preprocess_Result/meta/inputs.json of an earlier run is missing"
fi
logged infer.log "$PYTHON" "$ROOT/tools/infer_mindir.py" --mindir "$1" --input_dir preprocess_Result/data --result_path result_Files \
    --device_target "${DEVICE_TARGET:-auto}" --device_id "$device"
logged acc.log "$PYTHON" "$ROOT/postprocess.py" ${CONFIGURATION[@]+"${CONFIGURATION[@]}"} --result_path result_Files \
    --label_path "$2" --meta_path preprocess_Result/meta
