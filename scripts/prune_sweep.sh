#!/usr/bin/env bash
# Paper B's Table 1, Figure 1 and Figure 2: a dense lip reader, pruned with every method at 10 ... 90%
# and rewound to several moments of its training, with WER of each, a table and plots; then, trained
# with visual noise, 50% sparse (iterative LRR) against dense under seven types of it.
#
#   scripts/prune_sweep.sh --preset tiny     embedded corpus, tiny network
#   scripts/prune_sweep.sh --preset quick    the same with a few updates: numbers mean nothing
#   LRS3=DIR FRONTEND=lrw_resnet18.pth UNITS=unigram5000_units.txt SUBWORDS=unigram5000.model \
#     scripts/prune_sweep.sh --preset lrs3   the paper's values for BASE-S; GPUs' work of weeks
#
# WORK=DIR takes another folder, JOBS=N trains so many models at once, LEVELS="1 5" are the tiny
# preset's levels of visual noise. Results: WORK/report, WORK/noise/evaluation. Killed?
# Run it again: cells that are finished are skipped. `scripts/prune_sweep.sh --preset tiny report`
# makes the report of what there is.
set -euo pipefail
given="LRS3 FRONTEND UNITS SUBWORDS WORK"
source "$(dirname "$(readlink -f "$0")")/common.sh"

[ "${1:-}" = --preset ] || usage
methods="lrr-iterative lth-iterative lrr lth parp finetune naive"
sparsities="10 20 30 40 50 60 70 80 90" rewound="20 50 80" half=50 quickly=
case "${2:-}" in
  tiny)
    work=${WORK:-runs/prune} speakers=40 utterances=40
    epochs="5 10 20 40 60" final=75 levels=${LEVELS:-2 4 6 8 10} ;;
  quick)
    work=${WORK:-runs/prune-quick} speakers=5 utterances=4 quickly="--max-update 2"
    sparsities=20 rewound=20 half=10 epochs=1 final=2 levels=5 ;;
  lrs3)
    work=${WORK:-runs/prune_lrs3} epochs="5 10 20 40 60" final=75
    levels="1 2 3 4 5 6 7 8 9 10" ;;
  *) usage ;;
esac
export WORK=$work OPTIONS=$quickly PRESET=tiny
data=$work/data

evaluate() {
  avhubert-ext evaluate --data "$data" --cache-dir "$work/cache" --passes 1 --beam ${BEAM:-10} \
    ${OMP_NUM_THREADS:+--threads $OMP_NUM_THREADS} "$@"
}

report() {
  avhubert-ext pruning-report --evaluation "$work/evaluation" --out "$work/report" --last $final
}
case "${3:-}" in
  "") ;;
  report) report; exit ;;
  *) usage ;;
esac

if [ "$2" = lrs3 ]; then
  export PRESET=lrs3-base-s
  avhubert-ext subwords "${UNITS:?name the units of Auto-AVSR}" "$work/subwords" \
    --sentencepiece "${SUBWORDS:?name the sentencepiece model of Auto-AVSR}"
  step prepare avhubert-ext prepare --corpus "${LRS3:?name the folder of LRS3}" \
    --out "$work/data" --reuse-subwords "$work/subwords"
  step start avhubert-ext init base-s "$work/start.safetensors" --data "$work/data" \
    --frontend-checkpoint "${FRONTEND:?name the checkpoint of the LRW recognizer}"
  dense="$(options scripts/config/lrs3/vsr.args) $(options scripts/config/lrs3/vsr_base_s.args)
    $(options scripts/config/lrs3/vsr_dense.args) --keep-last-epochs -1"
else
  scripts/setup.sh
  export OMP_NUM_THREADS=1 JOBS=${JOBS:-2} BEAM=${BEAM:-3}
  # The miniature's schedule is too short to learn to read lips from nothing. In place of the paper's
  # frontend from LRW there is a reader of other speakers, the one that scripts/vsr.sh trains too: all
  # of it but the embedding and the output layers.
  avhubert-ext synth --out "$work/other/corpus" --speakers $speakers --utterances $utterances --seed 1
  step other.prepare avhubert-ext prepare --corpus "$work/other/corpus" --out "$work/other/data" \
    --reuse-subwords $shipped
  step other fairseq-train "$work/other/data" --user-dir fairseq_user_dir \
    $(options $config/vsr.args) $(options $config/vsr_dense.args) --save-dir "$work/other/model" \
    --cache-dir "$work/other/cache" $(on_cpu) $quickly
  avhubert-ext synth --out "$work/corpus" --speakers $speakers --utterances $utterances --seed 2
  step prepare avhubert-ext prepare --corpus "$work/corpus" --out "$work/data" \
    --reuse-subwords $shipped
  step start avhubert-ext init tiny "$work/start.safetensors" --data "$work/data" \
    --recognizer-checkpoint "$work/other/model/checkpoint_last.pt"
  dense="$(options $config/vsr.args) $(options $config/prune_dense.args)"
  [ -z "$quickly" ] || dense+=" --max-update $final --save-interval-updates 1"
fi

# dense_model FOLDER OPTION...: the dense training, and its model beside the pruned ones.
dense_model() {
  work=$1 step dense fairseq-train "$data" --user-dir fairseq_user_dir $dense --save-dir "$1/dense" \
    --cache-dir "$work/cache" $(on_cpu) --finetune-from-model "$1/start.safetensors" "${@:2}"
  work=$1 step dense.export avhubert-ext convert "$1/dense/checkpoint_last.pt" \
    "$1/models/dense.safetensors"
}
dense_model "$work"

# Each line a call of prune.sh that needs no other; rounds, which do, first: they take longest.
cells() {
  local method
  for method in $methods; do
    case $method in
      *-iterative) echo $method ${sparsities##* } ;;
      *) printf "$method %s\n" $sparsities ;;
    esac
  done
  for epoch in $epochs; do printf "rewind-$epoch %s\n" $rewound; done
}
cells | xargs -P ${JOBS:-1} -L 1 scripts/prune.sh

export work data
evaluate_all "$work/evaluation" "$work/models"
report

# Figure 2.
noise=$work/noise with_noise=$(options scripts/config/lrs3/vsr_noise.args)
mkdir -p "$noise"
ln -sfn ../start.safetensors "$noise/start.safetensors"
dense_model "$noise" $with_noise
WORK=$noise DATA=$data OPTIONS="$with_noise $quickly" scripts/prune.sh lrr-iterative $half
mkdir -p "$noise/compared"
for name in dense lrr-iterative-$half; do
  ln -sfn ../models/$name.safetensors "$noise/compared/$name.safetensors"
done
evaluate_all "$noise/evaluation" "$noise/compared" --visual-noise --levels $levels
