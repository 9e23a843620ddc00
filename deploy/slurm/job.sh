# What both jobs share; they source it. Sets run (a private directory, removed at the end), checkpoint and dask_log; defines drive.

job=$PWD/bigmm-$SLURM_JOB_ID
run=$job/run
checkpoint=${BIGMM_CHECKPOINT:-$job/checkpoint}
dask_log=$job.dask.log
helpers=()

mkdir -p "$job"
rm -rf "$run"  # of a run that was killed
sh "$slurm/../tls/make_certs.sh" "$run"
export DASK_CONFIG=$run
export DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=30
export DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="2 minutes"

leave() {
    for ((i = ${#helpers[@]} - 1; i >= 0; i--)); do  # workers before their scheduler
        kill "${helpers[i]}" 2>/dev/null || true
        wait "${helpers[i]}" || true
    done
    rm -rf "$run"
}
trap leave EXIT

# Run the driver and exit with its code; near the end of the job's time stop it and requeue the job.
drive() {
    local code driver requeue=
    "$@" &
    driver=$!
    trap 'requeue=yes; kill -TERM $driver 2>/dev/null' USR1
    trap 'kill -TERM $driver 2>/dev/null' TERM
    while :; do  # a signal ends `wait` before the driver ends
        code=0
        wait "$driver" || code=$?
        kill -0 "$driver" 2>/dev/null || break
    done
    if [ -n "$requeue" ] && [ "$code" != 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${BIGMM_RESTARTS:-20}" ]; then
        scontrol requeue "$SLURM_JOB_ID"
    elif [ "$code" = 0 ] && [ -z "${BIGMM_CHECKPOINT:-}" ]; then
        rm -rf "$job"
    fi
    exit "$code"
}
