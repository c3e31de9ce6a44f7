#!/usr/bin/env bash
# How small a recognizer gets at which WER: the demo's distilled student, pruned in rounds (iterative
# LRR) and stored in 8 bits, on the accuracy/size frontier beside its teacher. The papers leave this
# combination to future work.
#
#   scripts/frontier.sh          about 30 min on two cores, after scripts/demo.sh
#   scripts/frontier.sh --quick  after scripts/demo.sh --quick: numbers mean nothing
#
# DEMO=DIR is the folder of the demo, WORK=DIR takes another folder than runs/frontier. Results:
# WORK/report. Killed? Run it again: finished steps are skipped.
set -euo pipefail
given="DEMO WORK"
source "$(dirname "$(readlink -f "$0")")/common.sh"

case "$*" in
  "")      demo=${DEMO:-runs/demo} work=${WORK:-runs/frontier} sparsities="10 20 30 40 50 60 70 80 90" quickly= ;;
  --quick) demo=${DEMO:-runs/demo-quick} work=${WORK:-runs/frontier-quick} sparsities=10 quickly="--max-update 2" ;;
  *) usage ;;
esac
student=$demo/student/checkpoint_last.pt
[ -e "$student" ] || fail "$student not found: run scripts/demo.sh first"

export WORK=$work DATA=$demo/data PRESET=tiny-student OMP_NUM_THREADS=1
export OPTIONS="--noise-manifests $(noise_kinds "$demo/noise") $quickly"
mkdir -p "$work/dense"
ln -sfn "$(realpath "$student")" "$work/dense/checkpoint_last.pt"
scripts/prune.sh lrr-iterative ${sparsities##* }

step teacher avhubert-ext convert $shipped/model.safetensors "$work/models/teacher.safetensors"
step student avhubert-ext convert "$student" "$work/models/student.safetensors"
for name in teacher student $(printf 'lrr-iterative-%s ' $sparsities); do
  step "$name-8bit" avhubert-ext export-sparse "$work/models/$name.safetensors" \
    "$work/models/$name-8bit.safetensors" --codebook
done

evaluate() {
  avhubert-ext evaluate --data "$DATA" --cache-dir "$work/cache" --threads 1 \
    --noise "$demo/noise/babble" --snr 0 --passes 1 "$@"
}
export work demo
JOBS=2 evaluate_all "$work/evaluation" "$work/models"
avhubert-ext frontier --evaluation "$work/evaluation" --out "$work/report"
avhubert-ext frontier --evaluation "$work/evaluation" --out "$work/report/babble" \
  --condition babble_0dB
