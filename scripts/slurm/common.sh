# Sourced by the sbatch files beside it, from the repository's root or with NUDGING_ROOT set: servers that are stopped at the end, and commands that are
# told of the scheduler's SIGTERM, so that a job that is killed, preempted or out of time goes on where it was when it is requeued.
# shellcheck shell=bash

REQUEUE_SECONDS=300 # a SIGTERM so near to the time limit (see --signal) is the limit's
child="" servers="" told_to_stop=""

# The last task of an array has the array's own id as SLURM_JOB_ID, which would stand for all tasks.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
job=${job:-${SLURM_JOB_ID:-0}}
end_of_job=$(SLURM_TIME_FORMAT=standard squeue -h -j "$job" -o %e 2>/dev/null | head -n 1) || end_of_job=
[ -z "$end_of_job" ] || end_of_job=$(date -d "$end_of_job" +%s 2>/dev/null) || end_of_job=
[ -n "$end_of_job" ] || end_of_job=0
# Clusters set proxies for the world outside; the servers are here.
export no_proxy="127.0.0.1,localhost${no_proxy:+,$no_proxy}"
export NO_PROXY=$no_proxy

tell() {
    echo "$(date +%H:%M:%S) ${SLURM_JOB_NAME:-job}: $*" >&2
}

on_term() {
    told_to_stop=1
    tell "told to stop by the scheduler"
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
}
trap on_term TERM

wait_for() { # wait_for PID: its exit code, whatever signals come in between
    local code=0
    while :; do
        code=0
        wait "$1" || code=$?
        kill -0 "$1" 2>/dev/null || return "$code"
    done
}

start_servers() { # start_servers BASE NUDGING [options of serve_models.sh]: sets BASE_HOST and NUDGING_HOST
    local ready
    ready=$(mktemp)
    rm "$ready"
    # Free ports, since another job's servers may be on this node.
    "${SERVE_MODELS:-${NUDGING_ROOT:-.}/scripts/serve_models.sh}" "$1" "$2" --base_port 0 --nudging_port 0 --proxy_base_port 0 --ready_file "$ready" "${@:3}" &
    servers=$!
    until [ -s "$ready" ]; do
        if ! kill -0 "$servers" 2>/dev/null || [ -n "$told_to_stop" ]; then
            [ -n "$told_to_stop" ] || tell "the models could not be served; the lines above say why"
            finish 1
        fi
        sleep 1
    done
    set -a
    # shellcheck disable=SC1090
    . "$ready"
    set +a
    rm -f "$ready"
}

finish() { # finish CODE: stop the servers, have the job run again if its time is up, and end it
    local code=$1
    if [ -n "$servers" ]; then
        kill -TERM "$servers" 2>/dev/null || true
        wait_for "$servers" || true
    fi
    if [ -n "$told_to_stop" ]; then
        [ "$code" = 0 ] || code=143
        if [ "$code" != 0 ] && [ "$end_of_job" != 0 ] && [ $((end_of_job - $(date +%s))) -le "$REQUEUE_SECONDS" ]; then
            tell "out of time; the job is requeued and goes on where it was"
            scontrol requeue "$job" || tell "it could not be requeued; submit it again, and it goes on"
        fi
    fi
    exit "$code"
}

watch_over() { # watch_over PID...: stop the command when one of the servers has ended, in the background
    while kill -0 "$child" 2>/dev/null; do
        for server in "$@"; do
            if ! kill -0 "$server" 2>/dev/null; then
                tell "a server has ended, so the run is stopped; what is finished is saved"
                kill -TERM "$child" 2>/dev/null || true
                return
            fi
        done
        sleep 2
    done
}

run() { # run COMMAND...: until it ends, told of a SIGTERM and stopped if a server of $watched ends; its exit code is in $code
    local watcher="" arguments=() argument
    for argument in "$@"; do
        # A job that runs again must not set aside what it has done.
        [ "$argument" = --rerun ] && [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || arguments+=("$argument")
    done
    code=0
    "${arguments[@]}" &
    child=$!
    # A SIGTERM between these two lines found no child to be told.
    [ -z "$told_to_stop" ] || kill -TERM "$child" 2>/dev/null || true
    if [ ${#watched[@]} -gt 0 ]; then
        watch_over "${watched[@]}" &
        watcher=$!
    fi
    wait_for "$child" || code=$?
    [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true
}
watched=()

run_and_finish() { # run_and_finish COMMAND...: run it, stop the servers, end the job with its exit code
    [ -z "$told_to_stop" ] || finish 143
    [ -z "$servers" ] || watched=("$servers")
    run "$@"
    # Without a SIGTERM of the scheduler's, 143 means that the watch has stopped it.
    [ "$code" != 143 ] || [ -n "$told_to_stop" ] || code=1
    finish "$code"
}
