#!/bin/sh
# Print the secret bigmm-tls: make_secret.sh | kubectl apply -f -
set -eu
umask 077

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
sh "$(dirname "$0")/../tls/make_certs.sh" "$directory/tls" "${1:-30}"
cd "$directory/tls"
sed -i "s,\"[^\"]*/,\"/tls/,g" tls.yaml  # where job.yaml mounts it

printf 'apiVersion: v1\nkind: Secret\nmetadata:\n  name: bigmm-tls\ntype: Opaque\ndata:\n'
for file in *; do
    printf '  %s: %s\n' "$file" "$(base64 -w 0 <"$file")"
done
