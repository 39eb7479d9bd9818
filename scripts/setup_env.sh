#!/usr/bin/env bash
# Create .venv, install the requirements and build the Cython extensions, unless already done.
# usage: bash scripts/setup_env.sh [requirements file](optional, default requirements.txt)
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

requirements=${1:-requirements.txt}
[ $# -le 1 ] && [ -f "$requirements" ] || {
    echo "usage: bash scripts/setup_env.sh [requirements file](optional, default requirements.txt)" >&2
    exit 2
}

if [ ! -x .venv/bin/python ]; then
    python=$(command -v python3.11 || command -v python3) || { echo "error: no python3 found; install Python 3.11" >&2; exit 2; }
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || {
        echo "error: $python is $("$python" -V 2>&1); MindSpore needs Python 3.10, 3.11 or 3.12" >&2
        exit 2
    }
    "$python" -m venv .venv
fi

# A checksum records the requirements installed last.
wanted=$(cat requirements*.txt | cksum)
stamp=.venv/installed-$(basename "$requirements")
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing $requirements into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
    echo "$wanted" > "$stamp"
fi

for source in src/native/*.pyx; do
    built=$(ls "${source%.pyx}".*.so 2>/dev/null | head -n 1)
    if [ -z "$built" ] || [ "$source" -nt "$built" ]; then
        command -v cc gcc > /dev/null || { echo "error: no C compiler found; install gcc" >&2; exit 2; }
        echo "building the Cython extensions"
        log=$(.venv/bin/python setup.py --quiet build_ext --inplace 2>&1) || { echo "$log" >&2; exit 1; }
        break
    fi
done
