#!/usr/bin/env bash
# Set-up (a no-op once done), lint and all tests, two at a time with a thread each. Arguments go to
# pytest: scripts/test.sh -k pruning. A worker that crashes ends the run: with a new one pytest-xdist
# would wait without end.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/common.sh"

scripts/setup.sh
mypy
ruff check .
ruff format --check .
OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder \
  --max-worker-restart 0 "$@"
