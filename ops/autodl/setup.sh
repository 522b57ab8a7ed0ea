#!/usr/bin/env bash
# Makes a fresh AutoDL container a pi0q box, or any Linux machine with a GPU. README.md beside this file says how.
#
#   PI0Q_REDIS_URL='rediss://USER:PASSWORD@HOST:PORT/0' bash setup.sh [WHEEL] [options of `pi0q box setup`]
#
# pi0q gets a Python environment of its own on the data disk; the one that trains is left as it is. Run it again to
# install a newer pi0q: trainings that run go on.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -d /root/autodl-tmp ]; then data=/root/autodl-tmp/pi0q; else data=${XDG_DATA_HOME:-$HOME/.local/share}/pi0q; fi
home=${PI0Q_HOME:-$data}
venv=$home/venv
turbo=${PI0Q_NETWORK_TURBO:-/etc/network_turbo}

say() { printf '%s\n' "$*" >&2; }
fail() { say "pi0q: $*"; exit 1; }

# What is installed: a wheel that is named or lies beside this file, else the clone that this file is in. Never a package
# of that name from an index: nobody says whose it is.
source=
if [ $# -gt 0 ] && [ "${1%.whl}" != "$1" ]; then source=$(realpath "$1"); shift; fi
[ -z "$source" ] || [ -f "$source" ] || fail "there is no $source; nothing was done."
if [ -z "$source" ]; then source=$(find "$here" -maxdepth 1 -name 'pi0q-*.whl' | sort -V | tail -n 1); fi
if [ -z "$source" ] && grep -qs '^name = "pi0q"' "$here/../../pyproject.toml"; then source=$(cd "$here/../.." && pwd); fi
[ -n "$source" ] || fail "there is no wheel pi0q-*.whl beside setup.sh and no clone of pi0q around it; nothing was done.
Fix: bash setup.sh /path/to/pi0q-0.1.0-py3-none-any.whl"

# The newest Python from 3.10 on: pi0q itself needs no more than that, the trainer has its own.
python=
for candidate in python3.12 python3.13 python3.11 python3.10 /root/miniconda3/bin/python "$HOME/miniconda3/bin/python" \
    "$HOME/miniforge3/bin/python" /opt/conda/bin/python python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "Python 3.10 or newer was not found; nothing was done. For one: conda create -y -n pi0q python=3.12"

# Nothing of this on the system disk, which has 30 GB.
mkdir -p "$home/cache/pip" "$home/tmp"
export PIP_CACHE_DIR=$home/cache/pip TMPDIR=$home/tmp PIP_DISABLE_PIP_VERSION_CHECK=1

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    say "Making $venv with $python …"
    "$python" -m venv --clear "$venv"
fi

install() { "$venv/bin/python" -m pip install --quiet --upgrade "${source}[worker]"; }

say "Installing pi0q from $source …"
if ! install; then
    [ -r "$turbo" ] || fail "pip could not install pi0q (its words are above); no worker was started."
    say "Once more through AutoDL's proxy ($turbo) …"
    # For this one command, which needs none of our secrets.
    (unset PI0Q_REDIS_URL HF_TOKEN WANDB_API_KEY; . "$turbo" >/dev/null; install) ||
        fail "pip could not install pi0q (its words are above); no worker was started."
fi

exec "$venv/bin/pi0q" box setup "$@"
