#!/usr/bin/env bash
# Create .venv with pinned versions of everything (see docs/install.md). If it is up to date, this
# takes less than a second.
#   PYTHON=python3.12 scripts/setup.sh    use another interpreter (3.10, 3.11 and 3.12 work)
# Without PYTHON it uses the interpreter of the existing .venv, or else python3.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

default=python3
if [ -x .venv/bin/python ]; then default=.venv/bin/python; fi
asked=${PYTHON:-$default}

# The real interpreter, not a link in a .venv that may be cleared below.
report='import os, platform, sys; print(platform.python_version(), os.path.realpath(sys.executable))'
read -r version python <<< "$("$asked" -c "$report" 2>/dev/null)"
case $version in
  3.10.* | 3.11.* | 3.12.*) ;;
  *) echo "set-up: $asked is not Python 3.10, 3.11 or 3.12; choose one of them: PYTHON=python3.12 $0" >&2
     exit 1 ;;
esac

if [ -L .venv ]; then
  echo "set-up: $PWD/.venv is a link to another environment, which would be erased; remove the link" >&2
  exit 1
fi
stamp=.venv/.installed
pins=scripts/constraints.txt
wanted=$( (echo "$PWD $version"; cat scripts/setup.sh scripts/requirements.txt $pins setup.py) | sha256sum)

if [ "$(cat $stamp 2>/dev/null)" = "$wanted" ]; then
  echo "set-up: $PWD/.venv is up to date"
  exit 0
fi

# Packages that are already installed stay, so an interrupted set-up resumes. If the .venv was made
# at another path or by another Python, it is cleared.
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

# Without build isolation; otherwise pip downloads the newest torch as well.
echo "set-up: 2/4 fairseq (fairseq-fixed)"
install --no-build-isolation fairseq-fixed

echo "set-up: 3/4 s3prl and libraries"
install -r scripts/requirements.txt
# mediapipe installs an OpenCV that needs a window system into the same folder. Put ours back.
install --no-deps --force-reinstall opencv-python-headless

echo "set-up: 4/4 this project"
install --no-deps --no-build-isolation -e .

pip check
echo "$wanted" > $stamp
echo "set-up: ready; use .venv/bin/python or 'source .venv/bin/activate'"
