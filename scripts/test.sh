#!/usr/bin/env bash
# Set up (a no-op once done), lint, build the documentation, and run the tests in two processes.
#
#   scripts/test.sh             all tests except whole recipes
#   scripts/test.sh --quick     fast tests of the library and the command line only
#   scripts/test.sh --all       recipes too; this is what .ci/run does
#
# More options go to pytest: scripts/test.sh --quick -k pruning
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/common.sh"

selected="not recipe"
case "${1:-}" in
  --quick) selected="not (recipe or fairseq or s3prl or browser or slow)"; shift ;;
  --all) selected=""; shift ;;
esac

scripts/setup.sh
ruff check .
ruff format --check .
python scripts/check_english.py
mypy
NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
# A worker that crashes ends the run: if it were replaced, pytest-xdist would wait forever.
OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
  -m "$selected" "$@"
