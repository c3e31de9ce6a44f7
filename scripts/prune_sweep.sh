#!/usr/bin/env bash
# Paper B's Table 1, Figure 1 and Figure 2: a dense lip reader, pruned with every method at 10 ... 90%
# and rewound to several checkpoints of its training, with the WER of each model, a table and plots.
# Then two lip readers that are trained with visual noise, one dense and one 50% sparse (iterative
# LRR), under seven types of it.
#
#   scripts/prune_sweep.sh --preset tiny     the embedded corpus, a tiny network
#   scripts/prune_sweep.sh --preset quick    the same with a few updates; the numbers mean nothing
#   LRS3=DIR FRONTEND=lrw_resnet18.pth UNITS=unigram5000_units.txt SUBWORDS=unigram5000.model \
#     scripts/prune_sweep.sh --preset lrs3   the paper's values for BASE-S; takes GPUs for weeks
#
# WORK=DIR sets another folder, JOBS=N trains N models at once, LEVELS="1 5" are the levels of visual
# noise of the tiny preset. Results: WORK/report, WORK/noise/evaluation. If it is interrupted, run it
# again: finished models are skipped. `scripts/prune_sweep.sh --preset tiny report` reports the models
# that are finished so far.
set -euo pipefail
paths=(LRS3 FRONTEND UNITS SUBWORDS WORK)
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

[ "${1:-}" = --preset ] || usage
methods=(lrr-iterative lth-iterative lrr lth parp finetune naive)
sparsities=(10 20 30 40 50 60 70 80 90) rewound=(20 50 80) half=50
epochs=(5 10 20 40 60) final=75 few_updates=()
other=() dense=() with_noise=()
case "${2:-}" in
  tiny)
    work=${WORK:-runs/prune} speakers=40 utterances=40
    read -ra levels <<< "${LEVELS:-2 4 6 8 10}" ;;
  quick)
    work=${WORK:-runs/prune-quick} speakers=5 utterances=4 few_updates=(--max-update 2)
    sparsities=(20) rewound=(20) half=10 epochs=(1) final=2 levels=(5) ;;
  lrs3)
    work=${WORK:-runs/prune_lrs3} levels=(1 2 3 4 5 6 7 8 9 10) ;;
  *) usage ;;
esac
data=$work/data

report() {
  avhubert-ext report pruning --evaluation "$work/evaluation" --out "$work/report" --last "$final"
}
case "${3:-}" in
  "") ;;
  report) report; exit ;;
  *) usage ;;
esac

if [ "$2" = lrs3 ]; then
  export PRESET=lrs3-base-s
  lrs3=scripts/config/lrs3
  avhubert-ext data subwords "${UNITS:?name the units of Auto-AVSR}" "$work/subwords" \
    --sentencepiece "${SUBWORDS:?name the sentencepiece model of Auto-AVSR}"
  step prepare avhubert-ext data prepare --corpus "${LRS3:?name the folder of LRS3}" \
    --out "$work/data" --reuse-subwords "$work/subwords"
  step start avhubert-ext model init base-s "$work/start.safetensors" --data "$work/data" \
    --frontend-checkpoint "${FRONTEND:?name the checkpoint of the LRW recognizer}"
  read_options dense "$lrs3/vsr.args" "$lrs3/vsr_base_s.args" "$lrs3/vsr_dense.args"
  dense+=(--keep-last-epochs -1)
else
  scripts/setup.sh
  export PRESET=tiny OMP_NUM_THREADS=1 JOBS=${JOBS:-2} BEAM=${BEAM:-3}
  # The tiny schedule is too short to learn lip reading from random weights. In place of the paper's
  # frontend from LRW, the start is a reader of other speakers, as scripts/vsr.sh trains it, without
  # its embedding and output layers.
  avhubert-ext data synth --out "$work/other/corpus" --seed 1 \
    --speakers "$speakers" --utterances "$utterances"
  step other.prepare avhubert-ext data prepare --corpus "$work/other/corpus" --out "$work/other/data" \
    --reuse-subwords "$shipped"
  read_options other "$config/vsr.args" "$config/vsr_dense.args"
  step other fairseq-train "$work/other/data" --user-dir fairseq_user_dir "${other[@]}" \
    --save-dir "$work/other/model" --cache-dir "$work/other/cache" "${on_cpu[@]}" "${few_updates[@]}"
  avhubert-ext data synth --out "$work/corpus" --seed 2 \
    --speakers "$speakers" --utterances "$utterances"
  step prepare avhubert-ext data prepare --corpus "$work/corpus" --out "$work/data" \
    --reuse-subwords "$shipped"
  step start avhubert-ext model init tiny "$work/start.safetensors" --data "$work/data" \
    --recognizer-checkpoint "$work/other/model/checkpoint_last.pt"
  read_options dense "$config/vsr.args" "$config/prune_dense.args"
  if [ "$2" = quick ]; then dense+=(--max-update "$final" --save-interval-updates 1); fi
fi

evaluation=(--data "$data" --cache-dir "$work/cache" --passes 1 --beam "${BEAM:-10}")
if [ -n "${OMP_NUM_THREADS:-}" ]; then evaluation+=(--threads "$OMP_NUM_THREADS"); fi

# dense_model FOLDER OPTION...: the dense training, and its model beside the pruned ones.
dense_model() {
  local cache=$work/cache
  work=$1 step dense fairseq-train "$data" --user-dir fairseq_user_dir "${dense[@]}" \
    --save-dir "$1/dense" --cache-dir "$cache" "${on_cpu[@]}" \
    --finetune-from-model "$1/start.safetensors" "${@:2}"
  work=$1 step dense.export avhubert-ext model convert "$1/dense/checkpoint_last.pt" \
    "$1/models/dense.safetensors"
}
dense_model "$work"

# One line for every call of prune.sh, METHOD SPARSITY. Rounds take longest, so they come first; the
# other sparsities of an iterative method are its earlier rounds.
models() {
  local method epoch sparsity
  for method in "${methods[@]}"; do
    case $method in
      *-iterative) echo "$method ${sparsities[-1]}" ;;
      *) for sparsity in "${sparsities[@]}"; do echo "$method $sparsity"; done ;;
    esac
  done
  for epoch in "${epochs[@]}"; do
    for sparsity in "${rewound[@]}"; do echo "rewind-$epoch $sparsity"; done
  done
}
models | WORK=$work xargs -P "${JOBS:-1}" -L 1 scripts/prune.sh "${few_updates[@]}" --

evaluate_all "$work/models" "${evaluation[@]}" --out "$work/evaluation"
report

# Figure 2: dense and half of the weights, with visual noise in training and test.
noise=$work/noise
read_options with_noise scripts/config/lrs3/vsr_noise.args
mkdir -p "$noise/compared"
ln -sfn ../start.safetensors "$noise/start.safetensors"
dense_model "$noise" "${with_noise[@]}"
WORK=$noise DATA=$data scripts/prune.sh "${with_noise[@]}" "${few_updates[@]}" -- lrr-iterative $half
for name in dense lrr-iterative-$half; do
  ln -sfn "../models/$name.safetensors" "$noise/compared/$name.safetensors"
done
evaluate_all "$noise/compared" "${evaluation[@]}" --visual-noise --levels "${levels[@]}" \
  --out "$noise/evaluation"
