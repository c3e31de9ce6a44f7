#!/usr/bin/env bash
# Prune a trained model with a method of paper B (Table 1, Figure 1), and train what is left.
#
#   scripts/prune.sh METHOD SPARSITY...     in percent of the prunable weights, as in: lrr 20 50 80
#
#   naive                          prune; no training
#   finetune, parp                 prune and train on at a small constant rate; with parp pruned
#                                  weights may grow again, and the last update prunes once more
#   lth, lrr, rewind-T             prune, put the kept weights back to those of the start (lth), of
#                                  no earlier time (lrr), or of the dense training's checkpoint T,
#                                  and train on the whole schedule anew
#   lth-iterative, lrr-iterative   rounds of 10% of the original weights, each trained anew
#
# In the environment: WORK, a folder with the dense training in dense/ (its checkpoints T and
# checkpoint_last.pt) and the file that it started from, start.safetensors; PRESET, the settings:
# tiny (default), tiny-student (lrr-iterative only), lrs3-base-s, lrs3-base-l; DATA, the manifests (default: WORK/data).
# OPTIONS="..." go to every fairseq-train. Results: WORK/models/METHOD-SPARSITY.safetensors. Killed?
# Run it again: what is finished is skipped, a training goes on from its last checkpoint.
set -euo pipefail
given="WORK DATA"
source "$(dirname "$(readlink -f "$0")")/common.sh"

[ $# -ge 2 ] || usage
work=${WORK:?name the folder of the dense training} data=${DATA:-$WORK/data}

case ${PRESET:-tiny} in
  tiny)         prune=tiny/prune shared=tiny/vsr ;;
  tiny-student) prune=tiny/student/prune shared=tiny/common ;;
  lrs3-base-s)  prune=lrs3/prune shared="lrs3/vsr lrs3/vsr_base_s" ;;
  lrs3-base-l)  prune=lrs3/prune shared="lrs3/vsr lrs3/vsr_base_l" ;;
  *) usage ;;
esac
settings=$(for name in $shared $prune; do options scripts/config/$name.args || exit; done)

first=$work/start.safetensors last=$work/dense/checkpoint_last.pt
[ -e "$last" ] || fail "$last not found: train the dense model first"

model() { echo "$work/models/$1.safetensors"; }
fraction() { awk "BEGIN { print $1 / 100 }"; }

# kept T: the dense training's checkpoint of an epoch or update.
kept() {
  local file
  for file in "$work/dense/checkpoint$1.pt" "$work"/dense/checkpoint_*_"$1.pt"; do
    if [ -e "$file" ]; then echo "$file"; return; fi
  done
  fail "$work/dense has no checkpoint of epoch or update $1: choose another of the kept ones:" \
    $(cd "$work/dense" && ls | grep 'checkpoint.*[0-9]\.pt')
}

# retrain NAME SCHEDULE START OPTION...: train the pruned model NAME on from the weights of START.
retrain() {
  local schedule
  schedule=$(options scripts/config/${prune}_$2.args)
  step "$1" fairseq-train "$data" --user-dir fairseq_user_dir $settings $schedule \
    --save-dir "$work/$1" --cache-dir "$work/cache" $(on_cpu) --finetune-from-model "$3" "${@:4}" \
    ${OPTIONS:-}
}
export_model() { step "$1.export" avhubert-ext convert "$work/$1/checkpoint_last.pt" "$(model "$1")"; }

# rewound NAME SCHEDULE RANKED WEIGHTS SPARSITY: RANKED says what is pruned, WEIGHTS what stays.
rewound() {
  local start=$work/$1/start.safetensors
  step "$1.start" avhubert-ext prune "$3" "$start" --weights "$4" --sparsity $(fraction $5)
  retrain "$1" "$2" "$start" --mask "$start"
  export_model "$1"
}

# The methods; each gets a sparsity in percent.
naive() { step naive-$1 avhubert-ext prune "$last" "$(model naive-$1)" --sparsity $(fraction $1); }
finetune() { retrain finetune-$1 finetune "$last" --sparsity $(fraction $1); export_model finetune-$1; }
lth() { rewound lth-$1 retrain "$last" "$first" $1; }
lrr() { retrain lrr-$1 retrain "$last" --sparsity $(fraction $1); export_model lrr-$1; }

parp() {
  retrain parp-$1 finetune "$last" --sparsity $(fraction $1) --regrow
  # Changes nothing, unless the training could not make its last update, which prunes.
  step parp-$1.export avhubert-ext prune "$work/parp-$1/checkpoint_last.pt" "$(model parp-$1)" \
    --sparsity $(fraction $1)
}

rewind() { rewound rewind-$epoch-$1 retrain "$last" "$rewind_to" $1; }

lth_iterative() {
  local ranked=$last round
  for round in $(rounds $1); do
    rewound lth-iterative-$round round "$ranked" "$first" $round
    ranked=$(model lth-iterative-$round)
  done
}

lrr_iterative() {
  local ranked=$last round mask=()
  for round in $(rounds $1); do
    retrain lrr-iterative-$round round "$ranked" ${mask[@]+"${mask[@]}"} \
      --sparsity $(fraction $round)
    export_model lrr-iterative-$round
    ranked=$(model lrr-iterative-$round) mask=(--mask "$(model lrr-iterative-$round)")
  done
}

rounds() { seq 10 10 "$1"; }

method=$1
case $method in
  naive | finetune | parp | lrr | lrr-iterative) ;;
  lth | lth-iterative) [ -e "$first" ] || fail "$first not found: where the training began" ;;
  rewind-[0-9]*) epoch=${method#rewind-} rewind_to=$(kept "$epoch") method=rewind ;;
  *) usage ;;
esac
for sparsity in "${@:2}"; do
  [[ $sparsity =~ ^[1-9][0-9]?$ ]] || fail "sparsity $sparsity: 1 to 99, in percent"
  [[ $method != *-iterative || $sparsity =~ 0$ ]] \
    || fail "sparsity $sparsity: rounds prune 10% each, so 10, 20 ... 90"
done
for sparsity in "${@:2}"; do
  ${method//-/_} $sparsity
done
