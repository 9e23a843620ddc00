#!/bin/sh
# Make a certificate authority and certificates for one Dask cluster, and the configuration that has Dask use them.
#
#   deploy/tls/make_certs.sh DIR [DAYS]     DIR must not exist, DAYS of validity are 30 unless given
#   export DASK_CONFIG=DIR/tls.yaml         in every process: scheduler, workers, client
#
# Whoever holds one of the keys may run any code on the cluster: DIR is readable by its owner alone. The authority's key
# is deleted, so that nobody can add to the certificates; make new ones instead. OpenSSL is all that is needed.
set -eu
umask 077

directory=${1:?usage: make_certs.sh DIR [DAYS]}
days=${2:-30}
mkdir "$directory"
cd "$directory"

key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}

key ca-key.pem
openssl req -x509 -new -key ca-key.pem -days "$days" -subj "/CN=bigmm authority" -out ca.pem \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign"
printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n' >leaf.cnf
for role in scheduler worker client; do
    key "$role-key.pem"
    openssl req -new -key "$role-key.pem" -subj "/CN=bigmm $role" -out "$role.csr"
    openssl x509 -req -in "$role.csr" -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days "$days" -extfile leaf.cnf -out "$role.pem" 2>/dev/null
done
rm -f ca-key.pem leaf.cnf ./*.csr ./*.srl

cat >tls.yaml <<YAML
distributed:
  comm:
    require-encryption: true
    default-scheme: tls
    tls:
      min-version: 1.3
      ca-file: "$PWD/ca.pem"
      scheduler: {cert: "$PWD/scheduler.pem", key: "$PWD/scheduler-key.pem"}
      worker: {cert: "$PWD/worker.pem", key: "$PWD/worker-key.pem"}
      client: {cert: "$PWD/client.pem", key: "$PWD/client-key.pem"}
YAML
