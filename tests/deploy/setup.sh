#!/bin/sh
# Install what the tests in tests/deploy need, beyond deploy/test.sh; then
#
#   .venv/bin/python -m pytest tests/deploy -m "slurm or ssh or netns"     (netns as root)
#   .venv/bin/python -m pytest tests/deploy                                TLS, object stores, schemas
set -eu

cd "$(dirname "$0")/../.."
DEBIAN_PACKAGES="deploy/debian-packages.txt deploy/debian-packages-cluster-tests.txt" sh deploy/install.sh cluster-test
