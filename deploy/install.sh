#!/bin/sh
# Install bigmm into .venv of this checkout: Debian packages, then Python packages. Run it again at any time.
#
#   deploy/install.sh [extra ...]         extras of pyproject.toml: plot, polars, s3, slurm, dashboard, test, cluster-test, dev
#   PYTHON=python3.12 deploy/install.sh   with another interpreter than /usr/bin/python3
#
# VENV names another environment, CONSTRAINTS a file of version pins, DEBIAN_PACKAGES other lists of packages; all relative to the checkout.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
venv=${VENV:-.venv}
constraints=${CONSTRAINTS:-}
lists=${DEBIAN_PACKAGES:-deploy/debian-packages.txt}

say() { printf '%s\n' "deploy/install.sh: $*" >&2; }
die() { say "$*"; exit 1; }

missing_debian_packages() {
    # shellcheck disable=SC2086
    sed 's/#.*//' $lists | while read -r package; do
        [ -n "$package" ] || continue
        status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || printf '%s ' "$package"
    done
}

install_debian_packages() {
    if ! command -v dpkg-query >/dev/null; then
        say "not a Debian system: SuiteSparse, OpenBLAS, a C compiler and Python headers have to be there (deploy/README.md)"
        return
    fi
    missing=$(missing_debian_packages)
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || die "Debian packages are missing; as root, run
    apt-get update && apt-get install --no-install-recommends ${missing% }"
    say "installing $missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    # shellcheck disable=SC2086
    apt-get -qq install --no-install-recommends $missing >/dev/null
}

# Debian's alternatives decide which BLAS and LAPACK the system's CHOLMOD gets.
warn_of_reference_blas() {
    ldconfig=$(command -v ldconfig || echo /sbin/ldconfig)
    [ -x "$ldconfig" ] || return 0
    for library in libblas.so.3 liblapack.so.3; do
        path=$("$ldconfig" -p | awk -v name="$library" '$1 == name { print $NF; exit }')
        [ -n "$path" ] || continue
        case $(readlink -f "$path") in
            */blas/libblas.so* | */lapack/liblapack.so*)
                architecture=$(basename "$(dirname "$path")")
                say "warning: $library is the reference implementation, many times slower than OpenBLAS; as root, run
    update-alternatives --auto $library-$architecture"
                ;;
        esac
    done
}

# PYTHON; else the one that made the environment; else Debian's, whose headers are installed; else the first on the PATH.
interpreter() {
    recorded=$(sed -n 2p "$venv/bigmm-origin" 2>/dev/null || true)
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" || die "no interpreter $PYTHON"
    elif [ -x "$recorded" ]; then
        echo "$recorded"
    elif [ -x /usr/bin/python3 ]; then
        echo /usr/bin/python3
    else
        command -v python3 || die "no python3"
    fi
}

# An environment works only where it was made, with the interpreter it was made with: bigmm-origin names both.
make_environment() {
    python=$(interpreter)
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is older than Python 3.11: set PYTHON to another"
    origin=$(printf '%s\n' "$root" "$python" && "$python" -c 'import sys; print(sys.version)')
    [ "$(cat "$venv/bigmm-origin" 2>/dev/null || true)" != "$origin" ] || return 0
    clear=
    [ ! -e "$venv/bigmm-origin" ] || clear=--clear
    "$python" -m venv $clear "$venv"
    echo "$origin" >"$venv/bigmm-origin"
}

# bigmm-installed holds a digest of what was installed from, then the extras, which add up.
# shellcheck disable=SC2086
install_python_packages() {
    had=$(sed 1d "$venv/bigmm-installed" 2>/dev/null || true)
    extras=$(printf '%s\n' $had "$@" | sort -u | sed '/^$/d')
    make_environment

    state=$(cat pyproject.toml $constraints | sha256sum | cut -d' ' -f1)
    wanted=$(printf '%s\n' "$state" $extras)
    [ "$(cat "$venv/bigmm-installed" 2>/dev/null || true)" != "$wanted" ] || return 0

    list=$(printf '%s\n' $extras | paste -sd, -)
    package=".${list:+[$list]}"
    say "installing bigmm${list:+[$list]} into $venv; the first time takes a minute or two"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check ${constraints:+-c "$constraints"} -e "$package"
    printf '%s\n' "$wanted" >"$venv/bigmm-installed"
}

install_debian_packages
install_python_packages "$@"
warn_of_reference_blas
