#!/usr/bin/env bash
# Install what the tests need into .venv and run them all, in a process for each core and one more, as some wait.
# Words that follow go to pytest: bash scripts/run_tests.sh -k losses
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh
set -eu
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
bash scripts/setup_env.sh requirements-dev.txt
unset PYTHONDONTWRITEBYTECODE # some hundred processes read what the first compiles
processes=$(($(nproc) < 3 ? $(nproc) + 1 : 4)) # each takes up to 3 GB
exec .venv/bin/python -m pytest --numprocesses $processes --dist loadgroup --no-loadscope-reorder --durations 10 "$@"
