# Shared functions, sourced by the launchers.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON="$ROOT/.venv/bin/python"
[ -x "$PYTHON" ] || PYTHON=python3
export PYTHONUNBUFFERED=1

# usage_error TEXT: print TEXT and exit with 2.
usage_error() {
    echo "$1" >&2
    exit 2
}

# expect_arguments LEAST MOST COUNT [OPTION]: exit with a message and the usage if COUNT is out of range; OPTION is the
# first option after the arguments.
expect_arguments() {
    local expected=$1
    [ "$1" -eq "$2" ] || expected="$1 to $2"
    [ "$3" -ge "$1" ] && [ "$3" -le "$2" ] || usage_error "error: expected $expected arguments, got $3${4:+ before $4}
$USAGE"
}

# split_arguments LEAST MOST ARGUMENT...: set POSITIONAL to the arguments before the first that begins with --, and
# OPTIONS, for the entry script, to the others.
split_arguments() {
    local least=$1 most=$2
    shift 2
    POSITIONAL=() OPTIONS=()
    while [ $# -gt 0 ] && [[ $1 != --* ]]; do
        POSITIONAL+=("$1")
        shift
    done
    OPTIONS=("$@")
    expect_arguments "$least" "$most" ${#POSITIONAL[@]} "${1:-}"
}

# configuration: set CONFIGURATION to the options for CONFIG_PATH, DEVICE to those for DEVICE_TARGET; without these
# variables default_config.yaml applies.
configuration() {
    CONFIGURATION=() DEVICE=()
    [ -z "${CONFIG_PATH:-}" ] || CONFIGURATION=(--config_path "$CONFIG_PATH")
    [ -z "${DEVICE_TARGET:-}" ] || DEVICE=(--device_target "$DEVICE_TARGET")
}

# none_if_blank TEXT: print TEXT unless it is blank; users of the model zoo pass " " for no path.
none_if_blank() {
    [ -z "${1//[[:space:]]/}" ] || printf '%s' "$1"
}

# require_ours PATH...: exit with 2 if a log or a process's folder exists that is not this project's: it is neither
# moved nor overwritten.
require_ours() {
    local path
    for path in "$@"; do
        if [ -d "$path" ]; then
            [ -z "$(ls -A "$path")" ] || [ -e "$path/env.log" ] || [ -e "$path/training_log.txt" ] || [ -e "$path/ckpt_0" ]
        else # our logs begin with the configuration's files, the launcher's processes, or the project's name
            [ ! -s "$path" ] || grep -qaE "default_config\.yaml|^LOG(_scheduler|[0-9]+): process|CenterNet on MindSpore" \
                < <(head -c 65536 "$path")
        fi || usage_error "error: $path already exists and was not written by this project: it is neither moved \
nor overwritten; move it away, or start in another folder"
    done
}

# back_up_existing PATH: rename PATH, if it exists, to the first free name of PATH.1, PATH.2, ...
back_up_existing() {
    [ -e "$1" ] || return 0
    require_ours "$1"
    local number=1
    while [ -e "$1.$number" ]; do number=$((number + 1)); done
    mv "$1" "$1.$number"
    echo "backed up the earlier $1 as $1.$number"
}

# in_background LOG SCRIPT ARGUMENT...: run one of the project's scripts detached from the terminal, with its output in
# LOG and MindSpore's logs in ms_log/. Mistakes in the configuration and its paths are reported first, with exit code 2.
in_background() {
    local log=$1 script=$2 code=0
    shift 2
    # sys.path begins with the project, not with the current folder, which may contain another src/.
    "$PYTHON" -c 'import sys; sys.path[0] = sys.argv.pop(1); from src.commands import check; check(sys.argv.pop(1))' \
        "$ROOT" "$(basename "$script" .py)" "$@" || code=$?
    case $code in
        0) ;;
        3) FIRST_LINE="CenterNet on MindSpore: $log"$'\n' ;; # identifies a quiet log as ours
        *) exit "$code" ;;
    esac
    start_in_background "$log" "$PYTHON" "$ROOT/$script" "$@"
}

# start_in_background LOG COMMAND...: run any command detached, as in_background does.
start_in_background() {
    local log=$1
    shift
    back_up_existing "$log"
    mkdir -p ms_log
    printf '%s' "${FIRST_LINE:-}" > "$log"
    GLOG_logtostderr=0 GLOG_log_dir="$PWD/ms_log" nohup "$@" >> "$log" 2>&1 < /dev/null &
    printf 'started process %s; follow it with: tail -f %q\n' "$!" "$PWD/$log"
}
