# Sourced by distributed_cmd.sh: start processes, each in its own folder, and stop all of them if one fails.

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
GRACE=10 # seconds between SIGTERM and SIGKILL after another process has failed
SAVING=120 # the same after an interrupt: the processes finish a step, and rank 0 writes a checkpoint
declare -A FOLDER_OF=()
# Ties a process to this shell: it is killed with the shell, and exits if the shell is gone when it starts. Needs
# util-linux 2.33.
TIED=(env)
! setpriv --help 2> /dev/null | grep -q -- --pdeathsig ||
    TIED=(setpriv --pdeathsig KILL sh -c '[ "$PPID" = "$0" ] || exit 1; exec "$@"' $$)
interrupted=
trap on_interrupt INT TERM

on_interrupt() {
    end_all $SAVING
    report_interrupted
    exit 130
}

# start FOLDER NAME=VALUE... -- COMMAND...: run COMMAND in FOLDER, with output, environment and MindSpore's logs there.
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
    trap 'interrupted=yes' INT TERM # a newly forked shell loses signals: pass them on once env.log exists
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

# end_all SECONDS: terminate the running processes, and kill them after SECONDS. The scheduler is terminated last, since
# the others need it for an orderly exit.
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

# end_processes SECONDS PID...: send SIGTERM, wait up to SECONDS, and kill the remaining processes.
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

# report_interrupted: print each process's line about the interrupt, which MindSpore's output may follow, else the last
# line of its log.
report_interrupted() {
    local folder
    for folder in "${FOLDER_OF[@]}"; do
        [ "$folder" != LOG_scheduler ] || continue
        echo "$folder: $(grep '^interrupted' "$folder/training_log.txt" || tail -n 1 "$folder/training_log.txt")" >&2
    done
}

# supervise: wait for all processes; if one fails, stop the others and exit with its code. MindSpore 2.10 sometimes
# crashes a process that disconnects after completing its work: the exit code written by errors.run takes precedence.
supervise() {
    local pid code reported
    while [ ${#FOLDER_OF[@]} -gt 0 ]; do
        sleep 0.2 # with standard error unredirected: on_interrupt may run here
        for pid in "${!FOLDER_OF[@]}"; do
            ! kill -0 "$pid" 2> /dev/null || continue
            code=0
            { wait "$pid"; } 2> /dev/null || code=$?
            reported=$(cat "${FOLDER_OF[$pid]}/exit_code.$pid" 2> /dev/null)
            rm -f "${FOLDER_OF[$pid]}/exit_code.$pid"
            if [ -n "$reported" ] && [ "$reported" != "$code" ]; then
                echo "${FOLDER_OF[$pid]}: its work ended with $reported, its process then with $code" >&2
                code=$reported
            fi
            if [ "$code" -ne 0 ]; then
                echo "error: the process in ${FOLDER_OF[$pid]} ended with $code; stopping the others. The end of its training_log.txt:" >&2
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
