#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
exec bash "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/train_full_4p.sh" "$@"  # where the Pascal VOC document calls it
