#!/usr/bin/env bash
# Remake the tiny task-specific teacher that ships with the repository (about 45 minutes on two
# cores): corpus, training, conversion. Run it again to go on where it stopped.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/common.sh"

work=${WORK:-runs/teacher}

avhubert-ext synth --out "$work/corpus" --speakers 80 --utterances 40 --seed 1
avhubert-ext prepare --corpus "$work/corpus" --out "$work/data" --subwords bpe --vocabulary 128
avhubert-ext noise --musan "$work/corpus/musan" --out "$work/noise"

fairseq-train "$work/data" --user-dir fairseq_user_dir \
  --task av_asr --arch av_asr_seq2seq --save-dir "$work/checkpoints" $(on_cpu) \
  --cache-dir "$work/cache" --noise-manifests "$(noise_kinds "$work/noise")" \
  $(options $config/common.args) $(options $config/teacher.args)

avhubert-ext convert --half "$work/checkpoints/checkpoint_last.pt" "$shipped/model.safetensors"
cp "$work"/data/spm_*.model "$work/data/dict.wrd.txt" $shipped/
