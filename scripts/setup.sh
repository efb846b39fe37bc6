#!/bin/sh
# Create .venv with everything that the lock names. Needs Python >= 3.11; asks the system's package manager for the
# parts of Python that a distribution leaves out (venv, pip). Running it again only brings .venv up to the lock.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

fit() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if fit "$name"; then
            printf '%s' "$name"
            return 0
        fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; elif command -v sudo >/dev/null 2>&1; then sudo "$@"; else return 1; fi
}

install_python() {
    say "asking the system's package manager for Python's venv and pip"
    if command -v apt-get >/dev/null 2>&1; then
        as_root apt-get update -qq \
            && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
    elif command -v dnf >/dev/null 2>&1; then
        as_root dnf install -y -q python3 python3-pip
    elif command -v apk >/dev/null 2>&1; then
        as_root apk add --quiet python3 py3-pip
    elif command -v zypper >/dev/null 2>&1; then
        as_root zypper --quiet --non-interactive install python3 python3-pip
    elif command -v pacman >/dev/null 2>&1; then
        as_root pacman -Sy --noconfirm --needed python python-pip
    elif command -v brew >/dev/null 2>&1; then
        brew install --quiet python
    else
        return 1
    fi
}

make_venv() {
    rm -rf .venv
    "$python" -m venv .venv >/dev/null 2>&1
}

has_pip() {
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip --upgrade >/dev/null 2>&1
}

python=$(find_python) || { install_python && python=$(find_python); } \
    || fail "no Python >= 3.11 found; install one and run make setup again, or name it: make setup PYTHON=/path/to/python"

if [ ! -x .venv/bin/python ] || ! fit .venv/bin/python; then
    say "creating .venv with $("$python" --version 2>&1)"
    make_venv || { install_python && make_venv; } \
        || fail "$python -m venv does not work; install the package of your system that brings it"
fi

if [ ! -x .venv/bin/uv ]; then
    say "installing uv into .venv"
    has_pip || { install_python && has_pip; } || fail "there is no pip in .venv, and none could be had"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall 'uv>=0.5'
fi

# --inexact keeps uv itself, and the tools of make docs.
say "bringing .venv up to uv.lock"
UV_PROJECT_ENVIRONMENT=.venv UV_PYTHON_DOWNLOADS=never .venv/bin/uv sync --quiet --frozen --inexact --python .venv/bin/python "$@"
touch .venv/.stamp
