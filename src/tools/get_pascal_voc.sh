#!/usr/bin/env bash
exec bash "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../tools/get_pascal_voc.sh" "$@"  # where the Pascal VOC document calls it
