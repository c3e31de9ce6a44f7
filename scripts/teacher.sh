#!/usr/bin/env bash
# Train the tiny teacher that ships with the repository again: corpus, training, conversion. Takes
# about 45 minutes on two cores.
#
#   scripts/teacher.sh
#
# WORK=DIR sets another folder than runs/teacher. If it is interrupted, run it again: the training
# resumes from its last checkpoint.
set -euo pipefail
paths=(WORK)
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

[ $# = 0 ] || usage
work=${WORK:-runs/teacher}

avhubert-ext data synth --out "$work/corpus" --speakers 80 --utterances 40 --seed 1
avhubert-ext data prepare --corpus "$work/corpus" --out "$work/data" --subwords bpe --vocabulary 128
avhubert-ext data noise --musan "$work/corpus/musan" --out "$work/noise"

settings=()
read_options settings "$config/common.args" "$config/teacher.args"
fairseq-train "$work/data" --user-dir fairseq_user_dir \
  --task av_asr --arch av_asr_seq2seq --save-dir "$work/checkpoints" "${on_cpu[@]}" \
  --cache-dir "$work/cache" \
  --noise-manifests "$(noise_folders "$work/noise" "${noise_kinds[@]}")" "${settings[@]}"

avhubert-ext model convert --half "$work/checkpoints/checkpoint_last.pt" "$teacher"
cp "$work"/data/spm_*.model "$work/data/dict.wrd.txt" "$shipped/"
