#!/usr/bin/env bash
# Decode the test set with one model under one condition.
#
#   scripts/decode.sh WORK MODEL CONDITION
#
# CONDITION: clean, babble_0db or babble_0db_no_video. The text goes to
# WORK/decoded/MODEL/CONDITION. A decoding that is finished is skipped.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

[ $# = 3 ] || usage
work=$1 model=$2 condition=$3
babble=(--noise-manifests "$work/noise/babble" --noise-prob 1 --noise-snr 0)
case $condition in
  clean) noise=() ;;
  babble_0db) noise=("${babble[@]}") ;;
  babble_0db_no_video) noise=("${babble[@]}" --modalities audio) ;;
  *) usage ;;
esac

step "decode-$model-$condition" \
  fairseq-generate "$work/data" --user-dir fairseq_user_dir --task av_asr --gen-subset test \
  --path "$work/$model/checkpoint_last.pt" --cache-dir "$work/cache" "${on_cpu[@]}" \
  --beam 5 --max-len-a 1 --max-len-b 0 --max-tokens 2000 --num-workers 0 \
  --scoring wer --post-process sentencepiece --results-path "$work/decoded/$model/$condition" \
  "${noise[@]}"
