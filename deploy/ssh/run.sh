#!/bin/bash
# Run a command of bigmm on machines that can be reached by ssh: workers there, scheduler and driver here, TLS between them.
#
#   deploy/ssh/run.sh HOSTS fit "y ~ x + (1|g)" /data/ratings --out ratings.fit
#
# HOSTS is a file: a machine a line, as ssh knows it, then how many workers it is to run (1). Every machine needs bigmm's `dask` on
# its PATH (or BIGMM_DASK), the same versions as here, and the data under the same name. Settings, by environment:
#   BIGMM_SSH      the ssh command and its options (ssh -o BatchMode=yes)
#   BIGMM_HOST     the address of this machine that the others reach; found out unless given
#   BIGMM_DASK     the path of `dask` on the machines
# Keys made for this run are sent through ssh to a private directory of each machine and removed at the end. Everything ends with this script.
set -euo pipefail
umask 077

hosts=${1:?usage: run.sh HOSTS COMMAND ...}
shift
ssh=${BIGMM_SSH:-ssh -o BatchMode=yes}
dask=${BIGMM_DASK:-dask}
run=$(mktemp -d)
helpers=()

leave() {
    [ ${#helpers[@]} -eq 0 ] || kill "${helpers[@]}" 2>/dev/null || true
    wait
    rm -rf "$run"
}
trap leave EXIT
trap 'exit 143' TERM

sh "$(dirname "$0")/../tls/make_certs.sh" "$run/tls" 7
export DASK_CONFIG=$run/tls/tls.yaml
dask scheduler --protocol tls ${BIGMM_HOST:+--host "$BIGMM_HOST"} --port 0 --dashboard-address 127.0.0.1:0 --scheduler-file "$run/scheduler.json" &
helpers+=($!)
until [ -s "$run/scheduler.json" ]; do
    kill -0 "${helpers[0]}"
    sleep 0.2
done
address=$(sed -n 's/.*"address": "\([^"]*\)".*/\1/p' "$run/scheduler.json")

# What a machine runs. The first line of its input holds the keys; the input ends when this script ends, however that happens.
# A worker that is lost, because the network failed or its memory was full, is started again.
remote() {
    cat <<REMOTE
umask 077
directory=\$(mktemp -d)
trap 'trap "" TERM; kill -TERM 0; rm -rf "\$directory"' EXIT
trap exit HUP INT TERM
read -r keys && echo "\$keys" | base64 -d | tar -x -C "\$directory" || exit
sed -i "s,\"[^\"]*/,\"\$directory/,g" "\$directory/tls.yaml"
export DASK_CONFIG="\$directory/tls.yaml"
while :; do
    $dask worker $address --protocol tls --dashboard-address 127.0.0.1:0 --nworkers $1 --nthreads 1 --death-timeout 60 --local-directory "\$directory"
    sleep 5
done </dev/null &
cat >/dev/null
REMOTE
}

keys=$(tar -c -C "$run/tls" ca.pem worker.pem worker-key.pem tls.yaml | base64 -w 0)
while read -r host count; do
    # shellcheck disable=SC2086
    { echo "$keys"; exec tail -f /dev/null --pid=$$; } | $ssh "$host" "$(remote "${count:-1}")" &
    helpers+=($!)
done < <(sed 's/#.*//; /^[[:space:]]*$/d' "$hosts")

bigmm "$@" --scheduler "$run/scheduler.json" &
driver=$!
trap 'kill -TERM $driver' TERM
code=0
wait "$driver" || code=$?
if kill -0 "$driver" 2>/dev/null; then  # a signal ends `wait` before the driver ends
    code=0
    wait "$driver" || code=$?
fi
exit "$code"
