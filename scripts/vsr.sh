#!/usr/bin/env bash
# Lip reading on the embedded corpus (paper B, Figure 2 in miniature): train the tiny dense model
# without and with visual noise, and decode unseen speakers under seven types of it. Results:
# runs/vsr/evaluation/table_1.{md,html}, results.{json,csv}, visual_noise_{seen,unseen}.png.
#
#   scripts/vsr.sh            takes about 1 h 30 min on two cores after set-up
#   scripts/vsr.sh --quick    a few updates, to see that everything runs; the numbers mean nothing
#
# WORK=DIR sets another folder; LEVELS="1 3 5" evaluates fewer than the ten levels. If it is
# interrupted, run it again: finished steps are skipped, a training resumes from its last checkpoint.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

case "$*" in
  "")
    work=${WORK:-runs/vsr} speakers=40 utterances=40 few_updates=()
    read -ra levels <<< "${LEVELS:-1 2 3 4 5 6 7 8 9 10}" ;;
  --quick)
    work=${WORK:-runs/vsr-quick} speakers=5 utterances=4 few_updates=(--max-update 4)
    read -ra levels <<< "${LEVELS:-5}" ;;
  *) usage ;;
esac
scripts/setup.sh

avhubert-ext data synth --out "$work/corpus" --speakers "$speakers" --utterances "$utterances" --seed 1
step prepare avhubert-ext data prepare --corpus "$work/corpus" --out "$work/data" \
  --reuse-subwords "$shipped"

settings=() with_noise=()
read_options settings "$config/vsr.args" "$config/vsr_dense.args"
read_options with_noise scripts/config/lrs3/vsr_noise.args   # the paper's types

# lip_reader NAME OPTION...: train one model with one thread.
lip_reader() {
  OMP_NUM_THREADS=1 step "$1" fairseq-train "$work/data" --user-dir fairseq_user_dir \
    "${settings[@]}" --save-dir "$work/$1" --cache-dir "$work/cache" "${on_cpu[@]}" \
    "${few_updates[@]}" "${@:2}"
}
lip_reader dense & first=$!
lip_reader dense-noise "${with_noise[@]}"
wait $first

evaluation=(
  --data "$work/data" --cache-dir "$work/cache" --out "$work/evaluation"
  --passes 1 --beam 10 --visual-noise --levels "${levels[@]}"
)
for name in dense dense-noise; do
  printf '%s\0%s\0' "$name" "$work/$name/checkpoint_last.pt"
done | OMP_NUM_THREADS=1 xargs -0 -n 2 -P 2 \
  avhubert-ext evaluate "${evaluation[@]}" --threads 1 --model > /dev/null
avhubert-ext evaluate "${evaluation[@]}"
