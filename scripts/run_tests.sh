#!/usr/bin/env bash
# Install the tests' requirements into .venv, and run all tests, with one process more than there are cores, since some
# wait. Arguments are passed to pytest: bash scripts/run_tests.sh -k losses
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
bash scripts/setup_env.sh requirements-dev.txt
unset PYTHONDONTWRITEBYTECODE # hundreds of processes reuse the bytecode of the first
processes=$(($(nproc) < 3 ? $(nproc) + 1 : 4)) # each takes up to 3 GB
exec .venv/bin/python -m pytest --numprocesses $processes --dist loadgroup --no-loadscope-reorder --durations 10 "$@"
