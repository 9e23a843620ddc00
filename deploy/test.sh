#!/bin/sh
# Install what the tests need and run them.
#
#   deploy/test.sh [argument of pytest ...]
#   deploy/test.sh --lowest [argument of pytest ...]   with the oldest supported dependencies (deploy/lowest.txt), in .venv-lowest
set -eu

cd "$(dirname "$0")/.."
if [ "${1:-}" = --lowest ]; then
    shift
    export VENV=.venv-lowest CONSTRAINTS=deploy/lowest.txt
fi
sh deploy/install.sh test
exec "${VENV:-.venv}/bin/python" -m pytest "$@"
