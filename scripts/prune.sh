#!/usr/bin/env bash
# Prune a trained model with a method of paper B (Table 1, Figure 1), and train the remaining weights.
#
#   scripts/prune.sh [OPTION... --] METHOD SPARSITY...
#
# SPARSITY is in percent of the prunable weights, for example: lrr 20 50 80. METHOD is one of:
#
#   naive                          prune, without training
#   finetune, parp                 prune and train on at a small constant learning rate; with parp
#                                  pruned weights may grow again, and the last update prunes again
#   lrr, lth, rewind-T             prune and train for the whole schedule again; the kept weights
#                                  continue from the trained ones (lrr), are reset to the initial ones
#                                  (lth), or to those of the dense training's checkpoint T
#   lth-iterative, lrr-iterative   the same in rounds, each of which prunes another 10% of the
#                                  original weights and trains the rest
#
# OPTIONs are for every fairseq-train. Environment: WORK, the folder with the dense training in dense/
# (its checkpoints T and checkpoint_last.pt) and the model that it started from, start.safetensors;
# PRESET, the settings: tiny (default), tiny-student (only lrr-iterative), lrs3-base-s or lrs3-base-l;
# DATA, the manifests (default: WORK/data). Results: WORK/models/METHOD-SPARSITY.safetensors. If it is
# interrupted, run it again: finished steps are skipped, a training resumes from its last checkpoint.
set -euo pipefail
paths=(WORK DATA)
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

options=()
for word in "$@"; do
  if [ "$word" = -- ]; then
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    break
  fi
done
[ $# -ge 2 ] || usage
method=$1 sparsities=("${@:2}")
work=${WORK:?name the folder of the dense training} data=${DATA:-$WORK/data}

lrs3=scripts/config/lrs3
case ${PRESET:-tiny} in
  tiny)         folder=$config         files=("$config/vsr.args") ;;
  tiny-student) folder=$config/student files=("$config/common.args") ;;
  lrs3-base-s)  folder=$lrs3           files=("$lrs3/vsr.args" "$lrs3/vsr_base_s.args") ;;
  lrs3-base-l)  folder=$lrs3           files=("$lrs3/vsr.args" "$lrs3/vsr_base_l.args") ;;
  *) usage ;;
esac
files+=("$folder/prune.args")

first=$work/start.safetensors last=$work/dense/checkpoint_last.pt
[ -e "$last" ] || fail "$last not found: train the dense model first"

model() { echo "$work/models/$1.safetensors"; }
fraction() { printf '0.%02d' "$1"; }

# kept T: the dense training's checkpoint of epoch or update T.
kept() {
  local file
  for file in "$work/dense/checkpoint$1.pt" "$work"/dense/checkpoint_*_"$1.pt"; do
    if [ -e "$file" ]; then echo "$file"; return; fi
  done
  fail "$work/dense has no checkpoint of epoch or update $1; choose one of these:" \
    "$(find "$work/dense" -name 'checkpoint*[0-9].pt' -printf '%f ')"
}

# retrain NAME SCHEDULE START OPTION...: train the pruned model NAME, from the weights in START.
retrain() {
  local settings=()
  read_options settings "${files[@]}" "$folder/prune_$2.args"
  step "$1" fairseq-train "$data" --user-dir fairseq_user_dir "${settings[@]}" \
    --save-dir "$work/$1" --cache-dir "$work/cache" "${on_cpu[@]}" --finetune-from-model "$3" \
    "${@:4}" "${options[@]}"
}
export_model() {
  step "$1.export" avhubert-ext model convert "$work/$1/checkpoint_last.pt" "$(model "$1")"
}

# rewound NAME SCHEDULE RANKED WEIGHTS SPARSITY: prune the smallest weights of RANKED, reset the rest
# to those of WEIGHTS, and train them.
rewound() {
  local start=$work/$1/start.safetensors
  step "$1.start" avhubert-ext model prune "$3" "$start" --weights "$4" --sparsity "$(fraction "$5")"
  retrain "$1" "$2" "$start" --mask "$start"
  export_model "$1"
}

case $method in
  naive | finetune | parp | lrr | lrr-iterative) ;;
  lth | lth-iterative) [ -e "$first" ] || fail "$first not found: the model before its training" ;;
  rewind-[0-9]*) rewind_to=$(kept "${method#rewind-}") ;;
  *) usage ;;
esac
for sparsity in "${sparsities[@]}"; do
  [[ $sparsity =~ ^[1-9][0-9]?$ ]] || fail "sparsity $sparsity: expected 1 to 99 percent"
  [[ $method != *-iterative || $sparsity =~ 0$ ]] \
    || fail "sparsity $sparsity: every round prunes 10%, so expected 10, 20 ... 90"
done

for sparsity in "${sparsities[@]}"; do
  name=$method-$sparsity
  case $method in
    naive)
      step "$name" avhubert-ext model prune "$last" "$(model "$name")" \
        --sparsity "$(fraction "$sparsity")" ;;
    finetune)
      retrain "$name" finetune "$last" --sparsity "$(fraction "$sparsity")"
      export_model "$name" ;;
    parp)
      retrain "$name" finetune "$last" --sparsity "$(fraction "$sparsity")" --regrow
      # Changes nothing, unless the training could not make its last update, which prunes.
      step "$name.export" avhubert-ext model prune "$work/$name/checkpoint_last.pt" "$(model "$name")" \
        --sparsity "$(fraction "$sparsity")" ;;
    lrr)
      retrain "$name" retrain "$last" --sparsity "$(fraction "$sparsity")"
      export_model "$name" ;;
    lth) rewound "$name" retrain "$last" "$first" "$sparsity" ;;
    rewind-*) rewound "$name" retrain "$last" "$rewind_to" "$sparsity" ;;
    lth-iterative)
      ranked=$last
      for ((round = 10; round <= sparsity; round += 10)); do
        rewound "$method-$round" round "$ranked" "$first" "$round"
        ranked=$(model "$method-$round")
      done ;;
    lrr-iterative)
      ranked=$last mask=()
      for ((round = 10; round <= sparsity; round += 10)); do
        retrain "$method-$round" round "$ranked" "${mask[@]}" --sparsity "$(fraction "$round")"
        export_model "$method-$round"
        ranked=$(model "$method-$round") mask=(--mask "$(model "$method-$round")")
      done ;;
  esac
done
