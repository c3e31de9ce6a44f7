#!/usr/bin/env bash
# Set-up (a no-op once done), lint and all tests, two at a time with a thread each. Arguments go to
# pytest: scripts/test.sh -k pruning
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/common.sh"

scripts/setup.sh
ruff check .
ruff format --check .
NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
