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

# Run the driver and exit with its code. Code 75, that what is done is in the checkpoint, requeues the job: the driver was stopped near the
# end of the job's time (USR1, which --signal asks for), or its cluster was lost. A job that is cancelled (TERM) stays so.
drive() {
    local code driver cancelled=
    "$@" &
    driver=$!
    trap 'kill -TERM $driver 2>/dev/null' USR1
    trap 'cancelled=yes; kill -TERM $driver 2>/dev/null' TERM
    while :; do  # a signal ends `wait` before the driver ends
        code=0
        wait "$driver" || code=$?
        kill -0 "$driver" 2>/dev/null || break
    done
    if [ "$code" = 75 ] && [ -z "$cancelled" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${BIGMM_RESTARTS:-20}" ]; then
        scontrol requeue "$SLURM_JOB_ID" || true
    elif [ "$code" = 0 ] && [ -z "${BIGMM_CHECKPOINT:-}" ]; then
        rm -rf "$job"
    fi
    exit "$code"
}
