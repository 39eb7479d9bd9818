#!/usr/bin/env bash
exec bash "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/train_full_4p.sh" "$@"  # where the Pascal VOC document calls it
