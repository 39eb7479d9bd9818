# Sourced by the launchers: what they share.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON="$ROOT/.venv/bin/python"
[ -x "$PYTHON" ] || PYTHON=python3
export PYTHONUNBUFFERED=1

# usage_error TEXT: print it and end with 2.
usage_error() {
    echo "$1" >&2
    exit 2
}

# keep_earlier PATH: what is there goes to the first free of PATH.1, PATH.2, ...
keep_earlier() {
    [ -e "$1" ] || return 0
    local number=1
    while [ -e "$1.$number" ]; do number=$((number + 1)); done
    mv "$1" "$1.$number"
    echo "kept the earlier $1 as $1.$number"
}

# in_background LOG COMMAND...: run it detached from the terminal, all it prints in LOG, MindSpore's own logs in ms_log/.
in_background() {
    local log=$1
    shift
    keep_earlier "$log"
    mkdir -p ms_log
    GLOG_logtostderr=0 GLOG_log_dir="$PWD/ms_log" nohup "$@" > "$log" 2>&1 < /dev/null &
    echo "started process $!; follow it with: tail -f $PWD/$log"
}
