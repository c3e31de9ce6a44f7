#!/usr/bin/env bash
# The whole way on the embedded corpus, every step a stock command line: distill a student from the
# tiny task-specific teacher (scripts/teacher.sh made it), finetune it with a decoder, prune it to
# 50%, decode all three clean and in babble. Results: runs/demo/results.{json,png}.
#
#   scripts/demo.sh            about 14 minutes on two cores after set-up
#   scripts/demo.sh --quick    a few updates only, to see that everything runs (numbers mean nothing)
#
# WORK=DIR takes another folder. Killed? Run it again: finished steps are skipped, a training goes on
# from its last checkpoint.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/common.sh"

case "$*" in
  "")
    work=${WORK:-runs/demo} speakers=40 utterances=40
    distill_quickly="" train_quickly=() ;;
  --quick)
    work=${WORK:-runs/demo-quick} speakers=5 utterances=4
    distill_quickly=$quick_distillation
    train_quickly=("${quick_training[@]}" --freeze-encoder-updates 2) ;;
  *) usage ;;
esac
scripts/setup.sh

echo "teacher: ships with the repository ($shipped), remade by scripts/teacher.sh; the demo starts"
echo "with its distillation. Folder: $work (logs in $work/log)"

# Corpus: 40 speakers, every fifth is kept for the test; manifests; noise.
avhubert-ext synth --out "$work/corpus" --speakers $speakers --utterances $utterances --seed 1
step prepare avhubert-ext prepare --corpus "$work/corpus" --out "$work/data" \
  --reuse-subwords $shipped
step noise avhubert-ext noise --musan "$work/corpus/musan" --out "$work/noise"

# Teacher -> student, in s3prl.
distill distill "$distill_quickly"
avhubert-ext convert "$work/distill" "$work/student-encoder.safetensors"

# Student + decoder, then half of it, in fairseq.
train student av_asr $(options $config/finetune.args) \
  --encoder-checkpoint "$work/student-encoder.safetensors" \
  ${train_quickly[@]+"${train_quickly[@]}"}
train student-sparse-50 av_asr_sparse $(options $config/prune_one_shot.args) \
  --finetune-from-model "$work/student/checkpoint_last.pt" \
  ${train_quickly[@]+"${train_quickly[@]}"}

# Decode on unseen speakers: two at a time, a thread each.
mkdir -p "$work/teacher"
avhubert-ext convert $shipped/model.safetensors "$work/teacher/checkpoint_last.pt"
for model in teacher student student-sparse-50; do
  for condition in clean babble_0db babble_0db_no_video; do
    echo "$model $condition"
  done
done | OMP_NUM_THREADS=1 xargs -P 2 -L 1 scripts/decode.sh "$work"

avhubert-ext report --out "$work" \
  --model teacher $shipped/model.safetensors "$work/decoded/teacher" \
  --model student "$work/student/checkpoint_last.pt" "$work/decoded/student" \
  --model student-sparse-50 "$work/student-sparse-50/checkpoint_last.pt" \
  "$work/decoded/student-sparse-50"
