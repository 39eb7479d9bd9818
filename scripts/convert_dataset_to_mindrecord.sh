#!/usr/bin/env bash
# Convert the training images of a COCO-format data set to MindRecord files, in the background.
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

USAGE="usage: bash scripts/convert_dataset_to_mindrecord.sh [COCO_DATASET_DIR] [MINDRECORD_DATASET_DIR]
In the environment: CONFIG_PATH (default default_config.yaml), for a data set whose files lie elsewhere."

[ $# -eq 2 ] || usage_error "$USAGE"
[ -d "$1" ] || usage_error "COCO_DATASET_DIR is no folder: $1
$USAGE"

in_background create_dataset.log "$PYTHON" "$ROOT/src/dataset.py" --config_path "${CONFIG_PATH:-$ROOT/default_config.yaml}" \
    --coco_data_dir "$1" --mindrecord_dir "$2"
