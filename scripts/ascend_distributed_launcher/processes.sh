# Sourced by distributed_cmd.sh: start processes, each in a folder of its own, and end all of them when one fails.

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
GRACE=10 # seconds between asking a process to end and killing it, where another one has failed
SAVING=120 # the same after an interrupt: the processes finish a step, and rank 0 writes a checkpoint
declare -A FOLDER_OF=()
# Tied to this shell a process does not outlive it, whatever becomes of it; one that starts when it is gone already does not go on.
# util-linux before 2.33 cannot do that.
TIED=(env)
! setpriv --help 2> /dev/null | grep -q -- --pdeathsig ||
    TIED=(setpriv --pdeathsig KILL sh -c '[ "$PPID" = "$0" ] || exit 1; exec "$@"' $$)
interrupted=
trap on_interrupt INT TERM

on_interrupt() {
    end_all $SAVING
    tell_interrupted
    exit 130
}

# start FOLDER NAME=VALUE... -- COMMAND...: run it in FOLDER; output, environment and MindSpore's logs go there.
start() {
    local folder=$1
    shift
    back_up_existing "$folder"
    mkdir -p "$folder/ms_log"
    local variables=(CENTERNET_LAUNCHED_IN="${CENTERNET_LAUNCHED_IN:-$PWD}")
    while [ "$1" != -- ]; do
        variables+=("$1")
        shift
    done
    shift
    trap 'interrupted=yes' INT TERM # a shell that is just forked loses a signal: it is passed on when env.log is there
    (
        cd "$folder" || exit 1
        export GLOG_logtostderr=0 GLOG_log_dir="$PWD/ms_log" CENTERNET_EXIT_CODE_FILE="exit_code.$BASHPID" "${variables[@]}"
        env > env.log || exit 1 # start waits for it
        exec "${TIED[@]}" "$@"
    ) > "$folder/training_log.txt" 2>&1 < /dev/null &
    FOLDER_OF[$!]=$folder
    until [ -e "$folder/env.log" ] || ! kill -0 $! 2> /dev/null; do sleep 0.01; done
    trap on_interrupt INT TERM
    [ -z "$interrupted" ] || on_interrupt
    echo "$folder: process $!"
}

# end_all SECONDS: ask the processes that still run to end, and kill those that do not. The scheduler, without which the others cannot end
# in order, is asked last.
end_all() {
    local pid others=()
    for pid in "${!FOLDER_OF[@]}"; do
        [ "${FOLDER_OF[$pid]}" = LOG_scheduler ] || others+=("$pid")
    done
    end_processes "$1" ${others[@]+"${others[@]}"}
    end_processes "$GRACE" "${!FOLDER_OF[@]}"
    wait
    for pid in "${!FOLDER_OF[@]}"; do rm -f "${FOLDER_OF[$pid]}/exit_code.$pid"; done
}

# end_processes SECONDS PID...: ask them to end, wait so long, and kill those that are left.
end_processes() {
    local waited seconds=$1
    shift
    [ $# -gt 0 ] || return 0
    kill -TERM "$@" 2> /dev/null
    for ((waited = 0; waited < 10 * seconds; waited++)); do
        kill -0 "$@" 2> /dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$@" 2> /dev/null
}

# tell_interrupted: what each process said of its end, behind which MindSpore may write; else the last line of its log.
tell_interrupted() {
    local folder
    for folder in "${FOLDER_OF[@]}"; do
        [ "$folder" != LOG_scheduler ] || continue
        echo "$folder: $(grep '^interrupted' "$folder/training_log.txt" || tail -n 1 "$folder/training_log.txt")" >&2
    done
}

# supervise: wait for all processes; if one fails the others are taken down, and its exit code is this one's, too. MindSpore 2.10 now and
# then crashes a process as it leaves the others, all its work done: the exit code that errors.run wrote before goes first.
supervise() {
    local pid code told
    while [ ${#FOLDER_OF[@]} -gt 0 ]; do
        sleep 0.2 # its standard error stays as it is: on_interrupt speaks from here
        for pid in "${!FOLDER_OF[@]}"; do
            ! kill -0 "$pid" 2> /dev/null || continue
            code=0
            { wait "$pid"; } 2> /dev/null || code=$?
            told=$(cat "${FOLDER_OF[$pid]}/exit_code.$pid" 2> /dev/null)
            rm -f "${FOLDER_OF[$pid]}/exit_code.$pid"
            if [ -n "$told" ] && [ "$told" != "$code" ]; then
                echo "${FOLDER_OF[$pid]}: its work ended with $told, its process then with $code" >&2
                code=$told
            fi
            if [ "$code" -ne 0 ]; then
                echo "error: the process in ${FOLDER_OF[$pid]} ended with $code; ending the others. The end of its training_log.txt:" >&2
                tail -n 5 "${FOLDER_OF[$pid]}/training_log.txt" >&2
                unset "FOLDER_OF[$pid]"
                end_all "$GRACE"
                exit "$code"
            fi
            echo "${FOLDER_OF[$pid]}: done"
            unset "FOLDER_OF[$pid]"
        done
    done
}
