#!/usr/bin/env bash
# The whole method on the embedded corpus, with stock commands only: distill a student from the tiny
# teacher, finetune it with a decoder, prune it to 50%, and decode with all three in quiet and in
# babble. Results: runs/demo/results.{json,png}.
#
#   scripts/demo.sh            takes about 14 minutes on two cores after set-up
#   scripts/demo.sh --quick    a few updates, to see that everything runs; the numbers mean nothing
#
# WORK=DIR sets another folder. If the demo is interrupted, run it again: finished steps are skipped,
# and a training resumes from its last checkpoint.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

case "$*" in
  "")
    work=${WORK:-runs/demo} speakers=40 utterances=40
    few_steps="" few_updates=() ;;
  --quick)
    work=${WORK:-runs/demo-quick} speakers=5 utterances=4
    few_steps=$quick_distillation
    few_updates=("${quick_training[@]}" --freeze-encoder-updates 2) ;;
  *) usage ;;
esac
scripts/setup.sh

echo "The teacher ships with the repository ($shipped); scripts/teacher.sh trains it again."
echo "The demo starts with the distillation of a student. Folder: $work, logs: $work/log"

# The corpus of 40 speakers, of which every fifth is for the test; manifests; noise.
avhubert-ext data synth --out "$work/corpus" --speakers "$speakers" --utterances "$utterances" --seed 1
step prepare avhubert-ext data prepare --corpus "$work/corpus" --out "$work/data" \
  --reuse-subwords "$shipped"
step noise avhubert-ext data noise --musan "$work/corpus/musan" --out "$work/noise"

# A student of the teacher, in s3prl.
distill distill "$few_steps"
avhubert-ext model convert "$work/distill" "$work/student-encoder.safetensors"

finetune=() prune=()
read_options finetune "$config/finetune.args"
read_options prune "$config/prune_one_shot.args"

# The student with a decoder, then half of its weights, in fairseq.
train student av_asr "${finetune[@]}" \
  --encoder-checkpoint "$work/student-encoder.safetensors" "${few_updates[@]}"
train student-sparse-50 av_asr_sparse "${prune[@]}" \
  --finetune-from-model "$work/student/checkpoint_last.pt" "${few_updates[@]}"

# Speakers that no model was trained on.
mkdir -p "$work/teacher"
avhubert-ext model convert "$teacher" "$work/teacher/checkpoint_last.pt"
decode_all teacher student student-sparse-50

avhubert-ext report decoded --out "$work" \
  --model teacher "$teacher" "$work/decoded/teacher" \
  --model student "$work/student/checkpoint_last.pt" "$work/decoded/student" \
  --model student-sparse-50 "$work/student-sparse-50/checkpoint_last.pt" \
  "$work/decoded/student-sparse-50"
