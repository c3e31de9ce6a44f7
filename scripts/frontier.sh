#!/usr/bin/env bash
# How small can a recognizer be at which WER? The distilled student of the demo is pruned in rounds
# (iterative LRR) and stored with 8 bits, and all models are plotted by size and WER beside the
# teacher. The papers leave this combination to future work.
#
#   scripts/frontier.sh          takes about 30 min on two cores, after scripts/demo.sh
#   scripts/frontier.sh --quick  after scripts/demo.sh --quick; the numbers mean nothing
#
# DEMO=DIR is the folder of the demo, WORK=DIR sets another folder than runs/frontier. Results:
# WORK/report. If it is interrupted, run it again: finished steps are skipped.
set -euo pipefail
paths=(DEMO WORK)
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

case "$*" in
  "")
    demo=${DEMO:-runs/demo} work=${WORK:-runs/frontier} few_updates=()
    sparsities=(10 20 30 40 50 60 70 80 90) ;;
  --quick)
    demo=${DEMO:-runs/demo-quick} work=${WORK:-runs/frontier-quick} few_updates=(--max-update 2)
    sparsities=(10) ;;
  *) usage ;;
esac
student=$demo/student/checkpoint_last.pt
[ -e "$student" ] || fail "$student not found: run scripts/demo.sh first"

# Rounds of pruning up to the highest sparsity; the student takes the place of the dense model.
export OMP_NUM_THREADS=1
mkdir -p "$work/dense"
ln -sfn "$(realpath "$student")" "$work/dense/checkpoint_last.pt"
WORK=$work DATA=$demo/data PRESET=tiny-student scripts/prune.sh \
  --noise-manifests "$(noise_folders "$demo/noise" "${noise_kinds[@]}")" "${few_updates[@]}" -- \
  lrr-iterative "${sparsities[-1]}"

step teacher avhubert-ext model convert "$teacher" "$work/models/teacher.safetensors"
step student avhubert-ext model convert "$student" "$work/models/student.safetensors"
for name in teacher student "${sparsities[@]/#/lrr-iterative-}"; do
  step "$name-8bit" avhubert-ext model compress "$work/models/$name.safetensors" \
    "$work/models/$name-8bit.safetensors" --codebook
done

JOBS=2 evaluate_all "$work/models" --data "$demo/data" --cache-dir "$work/cache" --threads 1 \
  --noise "$demo/noise/babble" --snr 0 --passes 1 --out "$work/evaluation"
avhubert-ext report frontier --evaluation "$work/evaluation" --out "$work/report"
avhubert-ext report frontier --evaluation "$work/evaluation" --out "$work/report/babble" \
  --condition babble_0dB
