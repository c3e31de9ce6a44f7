#!/usr/bin/env bash
# Lip reading on the embedded corpus (paper B, Figure 2 in miniature): train the tiny dense model
# without and with visual noise, decode unseen speakers under seven kinds of it. Results:
# runs/vsr/evaluation/table_1.{md,html}, results.{json,csv}, visual_noise_{seen,unseen}.png.
#
#   scripts/vsr.sh            about 1 h 30 min on two cores after set-up
#   scripts/vsr.sh --quick    a few updates only, to see that everything runs (numbers mean nothing)
#
# WORK=DIR takes another folder; LEVELS="1 3 5" evaluates fewer levels than ten. Killed? Run it again:
# finished steps are skipped, a training goes on from its last checkpoint.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/common.sh"

case "$*" in
  "")
    work=${WORK:-runs/vsr} speakers=40 utterances=40 levels=${LEVELS:-1 2 3 4 5 6 7 8 9 10}
    quickly=() ;;
  --quick)
    work=${WORK:-runs/vsr-quick} speakers=5 utterances=4 levels=${LEVELS:-5}
    quickly=(--max-update 4) ;;
  *) usage ;;
esac
scripts/setup.sh

avhubert-ext synth --out "$work/corpus" --speakers $speakers --utterances $utterances --seed 1
step prepare avhubert-ext prepare --corpus "$work/corpus" --out "$work/data" \
  --reuse-subwords $shipped

# Both at once, a thread each.
seen=block,gaussian_blur,motion_blur,pixelation
lip_reader() {
  OMP_NUM_THREADS=1 step "$1" fairseq-train "$work/data" --user-dir fairseq_user_dir \
    $(options $config/vsr.args) $(options $config/vsr_dense.args) --save-dir "$work/$1" --cache-dir "$work/cache" $(on_cpu) \
    ${quickly[@]+"${quickly[@]}"} "${@:2}"
}
lip_reader dense & first=$!
lip_reader dense-noise --visual-noise $seen
wait $first

evaluate() {
  avhubert-ext evaluate --data "$work/data" --cache-dir "$work/cache" --out "$work/evaluation" \
    --passes 1 --beam 10 --visual-noise --levels $levels "$@"
}
export -f evaluate
export work levels
printf '%s\n' dense dense-noise | OMP_NUM_THREADS=1 xargs -P 2 -I {} bash -c \
  'evaluate --threads 1 --model "$1" "$work/$1/checkpoint_last.pt"' _ {} > /dev/null
evaluate
