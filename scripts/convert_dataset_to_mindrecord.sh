#!/usr/bin/env bash
# Convert the training images of a COCO-format data set to MindRecord files, in the background.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

USAGE="usage: bash scripts/convert_dataset_to_mindrecord.sh [COCO_DATASET_DIR] [MINDRECORD_DATASET_DIR] [--PARAMETER VALUE ...]
Environment variables: CONFIG_PATH (a file with changes to default_config.yaml)."

split_arguments 2 2 "$@"
set -- ${POSITIONAL[@]+"${POSITIONAL[@]}"}
[ -d "$1" ] || usage_error "COCO_DATASET_DIR is not a folder: $1
$USAGE"

configuration
in_background create_dataset.log src/dataset.py ${CONFIGURATION[@]+"${CONFIGURATION[@]}"} --coco_data_dir "$1" \
    --mindrecord_dir "$2" ${OPTIONS[@]+"${OPTIONS[@]}"}
