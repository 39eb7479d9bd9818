# Sourced by distributed_cmd.sh: start processes, each in a folder of its own, and end all of them when one fails.

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
GRACE=10 # seconds between asking a process to end and killing it
declare -A FOLDER_OF=()
# Tied to this shell a process does not outlive it, whatever becomes of it; one that starts when it is gone already does not go on.
# util-linux before 2.33 cannot do that.
TIED=(env)
! setpriv --help 2> /dev/null | grep -q -- --pdeathsig ||
    TIED=(setpriv --pdeathsig KILL sh -c '[ "$PPID" = "$0" ] || exit 1; exec "$@"' $$)
trap 'end_all; exit 130' INT
trap 'end_all; exit 143' TERM

# start FOLDER NAME=VALUE... -- COMMAND...: run it in FOLDER; output, environment and MindSpore's logs go there.
start() {
    local folder=$1
    shift
    keep_earlier "$folder"
    mkdir -p "$folder/ms_log"
    local variables=()
    while [ "$1" != -- ]; do
        variables+=("$1")
        shift
    done
    shift
    (
        cd "$folder"
        export GLOG_logtostderr=0 GLOG_log_dir="$PWD/ms_log" "${variables[@]}"
        env > env.log
        exec "${TIED[@]}" "$@"
    ) > "$folder/training_log.txt" 2>&1 < /dev/null &
    FOLDER_OF[$!]=$folder
    echo "$folder: process $!"
}

# end_all: ask the processes that still run to end, and kill those that do not.
end_all() {
    local waited
    [ ${#FOLDER_OF[@]} -gt 0 ] || return 0
    kill -TERM "${!FOLDER_OF[@]}" 2> /dev/null
    for ((waited = 0; waited < 10 * GRACE; waited++)); do
        kill -0 "${!FOLDER_OF[@]}" 2> /dev/null || break
        sleep 0.1
    done
    kill -KILL "${!FOLDER_OF[@]}" 2> /dev/null
    wait
}

# supervise: wait for all processes; if one fails the others are taken down, and the exit code is not 0.
supervise() {
    local pid code
    while [ ${#FOLDER_OF[@]} -gt 0 ]; do
        sleep 0.2
        for pid in "${!FOLDER_OF[@]}"; do
            ! kill -0 "$pid" 2> /dev/null || continue
            code=0
            { wait "$pid"; } 2> /dev/null || code=$? # without the shell's own remark on a killed process
            if [ "$code" -ne 0 ]; then
                echo "error: the process in ${FOLDER_OF[$pid]} ended with $code; ending the others. The end of its training_log.txt:" >&2
                tail -n 5 "${FOLDER_OF[$pid]}/training_log.txt" >&2
                unset "FOLDER_OF[$pid]"
                end_all
                exit 1
            fi
            echo "${FOLDER_OF[$pid]}: done"
            unset "FOLDER_OF[$pid]"
        done
    done
}
