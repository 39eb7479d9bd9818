#!/usr/bin/env bash
# Check this project on the devices of this machine, within ten minutes and without a data set.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

USAGE="usage: bash scripts/check_ascend.sh [DEVICES](optional) [--output DIR] [--minutes N]
DEVICES are device ids, such as 0-7 or 0,2,4; default: all of this machine.
Environment variables: DEVICE_TARGET (Ascend, or CPU for small sizes on this machine's CPU; default: Ascend if present).
Prints a table of checks. Output: ascend_check/ in the current folder, with ascend_report.json and logs/."

split_arguments 0 1 "$@"
options=()
[ ${#POSITIONAL[@]} -eq 0 ] || options+=(--devices "${POSITIONAL[0]}")
[ -z "${DEVICE_TARGET:-}" ] || options+=(--device_target "$DEVICE_TARGET")
exec "$PYTHON" "$ROOT/tools/check_ascend.py" ${options[@]+"${options[@]}"} ${OPTIONS[@]+"${OPTIONS[@]}"}
