#!/usr/bin/env bash
# Install what the tests need into .venv and run them all, in a process for each core.
# Words that follow go to pytest: bash scripts/run_tests.sh -k losses
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
bash scripts/setup_env.sh requirements-dev.txt
unset PYTHONDONTWRITEBYTECODE # some hundred processes read what the first compiles
exec .venv/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder --durations 10 "$@"
