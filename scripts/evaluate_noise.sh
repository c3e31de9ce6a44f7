#!/usr/bin/env bash
# WER of recognizers in babble, against a second talker and clean, as paper A's Figures 3 and 4: each
# SNR in ten passes with other noise snippets. Results: WORK/evaluation/table_1.{md,html},
# results.{json,csv}, wer_{babble,talker}.png.
#
#   scripts/evaluate_noise.sh WORK NAME=FILE...    FILE: a recognizer of any kind; models one by one
#
# WORK holds the recipes' data/ and noise/. PASSES=10, SNR="-10 -5 0 5 10", BEAM=50 and MAX_FRAMES=2000
# can be set, JOBS=2 models be decoded at once (a thread each). Killed? Run it again: it goes on; so it
# does with other passes or levels, and models evaluated earlier stay on the page.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; fi
work=$(realpath -m "$1") models=()   # as seen from where this was started
for model in "${@:2}"; do models+=("${model%%=*}=$(realpath -m "${model#*=}")"); done
source "$(dirname "$(readlink -f "$0")")/common.sh"

evaluate() {
  avhubert-ext evaluate --data "$work/data" --noise "$work/noise/babble" "$work/noise/talker" \
    --snr ${SNR:--10 -5 0 5 10} --passes "${PASSES:-10}" --beam "${BEAM:-50}" \
    --max-frames "${MAX_FRAMES:-2000}" --cache-dir "$work/cache" --out "$work/evaluation" "$@"
}
export -f evaluate
export work

if [ "${JOBS:-1}" = 1 ]; then
  named=()
  for model in "${models[@]}"; do named+=(--model "${model%%=*}" "${model#*=}"); done
  evaluate "${named[@]}"
else
  printf '%s\n' "${models[@]}" | OMP_NUM_THREADS=1 xargs -P "$JOBS" -I {} bash -c \
    'model=$1; evaluate --threads 1 --model "${model%%=*}" "${model#*=}"' _ {} > /dev/null
  evaluate
fi
