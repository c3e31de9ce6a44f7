#!/usr/bin/env bash
# Make .venv with everything pinned (see README, "Install"). Run it again: a no-op in seconds.
#   PYTHON=python3.12 scripts/setup.sh    another interpreter (3.10, 3.11 and 3.12 work)
# Without PYTHON: the interpreter that the .venv there was made with, else python3.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

default=python3
if [ -x .venv/bin/python ]; then default=.venv/bin/python; fi
asked=${PYTHON:-$default}

# The interpreter itself, not a link to it in a .venv that is cleared below.
report='import os, platform, sys; print(platform.python_version(), os.path.realpath(sys.executable))'
read -r version python <<< "$("$asked" -c "$report" 2>/dev/null)"
case $version in
  3.10.* | 3.11.* | 3.12.*) ;;
  *) echo "set-up: $asked is not Python 3.10, 3.11 or 3.12; name one: PYTHON=python3.12 $0" >&2
     exit 1 ;;
esac

if [ -L .venv ]; then
  echo "set-up: $PWD/.venv is a link to another environment, which would be emptied: remove the link" >&2
  exit 1
fi
stamp=.venv/.installed
pins=scripts/constraints.txt
wanted=$( (echo "$PWD $version"; cat scripts/setup.sh scripts/requirements.txt $pins setup.py) | sha256sum)

if [ "$(cat $stamp 2>/dev/null)" = "$wanted" ]; then
  echo "set-up: $PWD/.venv is up to date"
  exit 0
fi

# Packages that are there already stay, so an interrupted set-up goes on; not so if the .venv was
# made at another path or by another Python.
made=$( (source .venv/bin/activate && echo "$VIRTUAL_ENV $(.venv/bin/python --version)") 2>/dev/null || true)
clear=--clear
if [ "$made" = "$PWD/.venv Python $version" ]; then clear=; fi

echo "set-up: environment in $PWD/.venv (Python $version)"
rm -f $stamp
"$python" -m venv $clear .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
install() { pip install -q -c $pins "$@"; }

echo "set-up: 1/4 PyTorch and build tools"
install torch torchaudio numpy cython setuptools wheel

# Without build isolation, for with it pip fetches a second, newest torch first.
echo "set-up: 2/4 fairseq (fairseq-fixed)"
install --no-build-isolation fairseq-fixed

echo "set-up: 3/4 s3prl and libraries"
install -r scripts/requirements.txt
# mediapipe brings an OpenCV with windows, in the same folder: without a display that does not load.
install --no-deps --force-reinstall opencv-python-headless

echo "set-up: 4/4 this project"
install --no-deps --no-build-isolation -e .

pip check
echo "$wanted" > $stamp
echo "set-up: ready; use .venv/bin/python or 'source .venv/bin/activate'"
