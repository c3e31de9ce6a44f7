#!/usr/bin/env bash
# Paper B's Table 1 and Figure 1: a dense lip reader, pruned with every method at 10 ... 90% and
# rewound to several moments of its training, with WER of each, a table and plots.
#
#   scripts/prune_sweep.sh --preset tiny     embedded corpus, tiny network
#   scripts/prune_sweep.sh --preset quick    the same with a few updates: numbers mean nothing
#   LRS3=DIR FRONTEND=lrw_resnet18.pth UNITS=unigram5000_units.txt SUBWORDS=unigram5000.model \
#     scripts/prune_sweep.sh --preset lrs3   the paper's values for BASE-S; GPUs' work of weeks
#
# WORK=DIR takes another folder, JOBS=N trains so many models at once. Results: WORK/report. Killed?
# Run it again: cells that are finished are skipped. `scripts/prune_sweep.sh --preset tiny report`
# makes the report of what there is.
set -euo pipefail
for name in LRS3 FRONTEND UNITS SUBWORDS WORK; do   # as seen from where this was started
  if [ -n "${!name:-}" ]; then export $name="$(realpath -m "${!name}")"; fi
done
source "$(dirname "$(readlink -f "$0")")/common.sh"

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' scripts/prune_sweep.sh >&2; exit 2; }
[ "${1:-}" = --preset ] || usage
methods="lrr-iterative lth-iterative lrr lth parp finetune naive"
sparsities="10 20 30 40 50 60 70 80 90" rewound="20 50 80" quickly=
case "${2:-}" in
  tiny)
    work=${WORK:-runs/prune} speakers=40 utterances=40
    epochs="5 10 20 40 60" final=75 ;;
  quick)
    work=${WORK:-runs/prune-quick} speakers=5 utterances=4 quickly="--max-update 2"
    sparsities=20 rewound=20 epochs=1 final=2 ;;
  lrs3)
    work=${WORK:-runs/prune_lrs3} epochs="5 10 20 40 60" final=75 ;;
  *) usage ;;
esac
export WORK=$work OPTIONS=$quickly PRESET=tiny

evaluate() {
  avhubert-ext evaluate --data "$work/data" --cache-dir "$work/cache" --passes 1 --beam ${BEAM:-10} \
    --threads 1 --out "$work/evaluation" "$@"
}

report() {
  avhubert-ext pruning-report --evaluation "$work/evaluation" --out "$work/report" --last $final
}
if [ "${3:-}" = report ]; then report; exit; fi

if [ "$2" = lrs3 ]; then
  export PRESET=lrs3-base-s
  avhubert-ext subwords "${UNITS:?name the units of Auto-AVSR}" "$work/subwords" \
    --sentencepiece "${SUBWORDS:?name the sentencepiece model of Auto-AVSR}"
  step prepare avhubert-ext prepare --corpus "${LRS3:?name the folder of LRS3}" \
    --out "$work/data" --reuse-subwords "$work/subwords"
  step start avhubert-ext init base-s "$work/start.safetensors" --data "$work/data" \
    --frontend-checkpoint "${FRONTEND:?name the checkpoint of the LRW recogniser}"
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
step dense fairseq-train "$work/data" --user-dir fairseq_user_dir $dense --save-dir "$work/dense" \
  --cache-dir "$work/cache" $(on_cpu) --finetune-from-model "$work/start.safetensors"
step dense.export avhubert-ext convert "$work/dense/checkpoint_last.pt" \
  "$work/models/dense.safetensors"

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

# Two at a time, a thread each; the last call, without a model, writes the page.
export -f evaluate
export work
ls "$work"/models/*.safetensors | xargs -P ${JOBS:-1} -n 12 bash -c \
  'for file; do models+=(--model "$(basename "$file" .safetensors)" "$file"); done
   evaluate "${models[@]}" > /dev/null' _
evaluate
report
