#!/usr/bin/env bash
# Train on a Pascal VOC data set in four processes, evaluate, and report accuracy and performance.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

USAGE="usage: bash scripts/train_full_4p.sh --data_path=PATH [--device_target=auto|Ascend|CPU] [--epochs=N]
[--config_path=FILE] [--run=NAME] [--PARAMETER=VALUE ...]
PATH is the data set's top folder, with annotations/ and images/ (data/voc from tools/get_pascal_voc.sh). All output
goes to exp/<run>/.
Environment variables: CONFIG_PATH (the recipe without --config_path; default configs/voc.yaml)."

[[ " $*" = *" --data_path"* ]] || usage_error "$USAGE"
exec "$PYTHON" "$ROOT/tools/train_full.py" --processes 4 "$@"
