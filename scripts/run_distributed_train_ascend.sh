#!/usr/bin/env bash
# Train on all devices of this server in the rank table; with several servers, run it on each.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

USAGE="usage: bash scripts/run_distributed_train_ascend.sh [--wait] [MINDRECORD_DATASET_PATH] [RANK_TABLE_FILE]
[LOAD_CHECKPOINT_PATH](optional) [--PARAMETER VALUE ...]
LOAD_CHECKPOINT_PATH is the checkpoint for fine-tuning; with --resume true, the one to resume from. Runs in the
background; with --wait until all processes end, with the exit code of the one that fails, else 0.
Environment variables: DEVICE_TARGET (Ascend, or CPU for the same processes on this machine's CPU; default: from the
configuration), CONFIG_PATH (a file with changes to default_config.yaml),
HYPER_PARAMETERS (ini file with training options, default scripts/ascend_distributed_launcher/hyper_parameter_config.ini),
SERVER_ID (this server in the rank table, default: found by its addresses), MS_SCHED_PORT (for CPUs on several servers,
default 8118).
Output in the current folder: distributed_cmd.sh and, for each device, LOG<device>/ with training_log.txt, env.log and
ms_log/; rank 0's also has ckpt_0/, train_record.jsonl and loss.png. With several servers, which may share the folder:
LOG<rank>/, and on servers without rank 0 distributed_cmd_rank<first rank>.sh."

wait=
arguments=()
for argument in "$@"; do
    if [ "$argument" = --wait ]; then wait=yes; else arguments+=("$argument"); fi
done
split_arguments 2 4 ${arguments[@]+"${arguments[@]}"}
set -- ${POSITIONAL[@]+"${POSITIONAL[@]}"}
[ -d "$1" ] || usage_error "MINDRECORD_DATASET_PATH is not a folder (create it with scripts/convert_dataset_to_mindrecord.sh): $1
$USAGE"
checkpoint=${3:-}
if [ $# -eq 4 ]; then # the model zoo's launcher reads the checkpoint here and ignores the argument before
    checkpoint=$4
    [ -z "$(none_if_blank "$3")" ] || echo "the fourth argument is the checkpoint, as in the model zoo; $3 is ignored"
fi
[ -f "$2" ] || usage_error "RANK_TABLE_FILE is not a file (create it with tools/make_rank_table.py): $2
$USAGE"

[ -n "$wait" ] || require_ours distributed_train.log
configuration
launcher="$ROOT/scripts/ascend_distributed_launcher"
command=("$PYTHON" "$launcher/get_distribute_train_cmd.py" ${CONFIGURATION[@]+"${CONFIGURATION[@]}"}
    --run_script_dir "$ROOT/train.py" --mindrecord_dir "$1" --hccl_config_dir "$2"
    --hyper_parameter_config_dir "${HYPER_PARAMETERS:-$launcher/hyper_parameter_config.ini}"
    --cmd_file "distributed_cmd{rank}.sh" ${DEVICE[@]+"${DEVICE[@]}"} --python "$PYTHON")
[ -z "${SERVER_ID:-}" ] || command+=(--server_id "$SERVER_ID")
[ -z "${MS_SCHED_PORT:-}" ] || command+=(--sched_port "$MS_SCHED_PORT")
command+=(--keep_earlier "--load_checkpoint_path=$(none_if_blank "$checkpoint")" -- ${OPTIONS[@]+"${OPTIONS[@]}"})
output=$("${command[@]}") || {
    code=$?
    echo "$output"
    exit $code
}
echo "$output"
script=${output##*; wrote } # distributed_cmd.sh; other servers that share the folder have their own

if [ -n "$wait" ]; then
    exec bash "$script"
fi
log=${script/cmd/train}
start_in_background "${log%.sh}.log" bash "$script"
