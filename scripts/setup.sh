#!/usr/bin/env bash
# Make .venv with everything pinned (see README, "Install"). Run it again: a no-op in seconds.
#   PYTHON=python3.12 scripts/setup.sh    another interpreter (3.10, 3.11 and 3.12 work)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
stamp=.venv/.installed
wanted=$(cat scripts/setup.sh scripts/requirements.txt setup.py | sha256sum)

if [ "$(cat $stamp 2>/dev/null)" = "$wanted" ]; then
  echo "set-up: $PWD/.venv is up to date"
  exit 0
fi

# Not --clear: packages that are there already stay, so an interrupted set-up goes on.
echo "set-up: environment in $PWD/.venv ($("$python" --version))"
"$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

echo "set-up: 1/4 PyTorch and build tools"
pip install -q torch==2.8.0 torchaudio==2.8.0 numpy==1.26.4 cython setuptools wheel

# Without build isolation, for with it pip fetches a second, newest torch first.
echo "set-up: 2/4 fairseq (fairseq-fixed 0.12.3.1)"
pip install -q --no-build-isolation fairseq-fixed==0.12.3.1

echo "set-up: 3/4 s3prl and libraries"
pip install -q -r scripts/requirements.txt

echo "set-up: 4/4 this project"
pip install -q --no-deps --no-build-isolation -e .

pip check
echo "$wanted" > $stamp
echo "set-up: ready; use .venv/bin/python or 'source .venv/bin/activate'"
