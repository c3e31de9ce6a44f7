#!/usr/bin/env bash
# WER of recognizers in quiet, in babble and with a second talker, as in paper A's Figures 3 and 4:
# each SNR in ten passes with different noise snippets. Results: WORK/evaluation/table_1.{md,html},
# results.{json,csv}, wer_{babble,talker}.png.
#
#   scripts/evaluate_noise.sh WORK NAME=FILE...
#
# FILE is any recognizer, NAME its name on the page. WORK has the data/ and noise/ of the recipes.
# PASSES=10, SNR="-10 -5 0 5 10", BEAM=50 and MAX_FRAMES=2000 set other values; JOBS=2 evaluates so
# many models at once, with one thread each. If it is interrupted, run it again: it continues. With
# other passes or levels it adds to the page, which keeps the models that were evaluated before.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; fi
work=$(realpath -m "$1") names=() files=()   # seen from the folder where this was started
for model in "${@:2}"; do
  names+=("${model%%=*}")
  files+=("$(realpath -m "${model#*=}")")
done
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

read -ra snr <<< "${SNR:--10 -5 0 5 10}"
evaluation=(
  --data "$work/data" --noise "$work/noise/babble" "$work/noise/talker" --snr "${snr[@]}"
  --passes "${PASSES:-10}" --beam "${BEAM:-50}" --max-frames "${MAX_FRAMES:-2000}"
  --cache-dir "$work/cache" --out "$work/evaluation"
)
if [ "${JOBS:-1}" = 1 ]; then
  models=()
  for i in "${!names[@]}"; do models+=(--model "${names[i]}" "${files[i]}"); done
  avhubert-ext evaluate "${evaluation[@]}" "${models[@]}"
else
  for i in "${!names[@]}"; do printf '%s\0%s\0' "${names[i]}" "${files[i]}"; done |
    OMP_NUM_THREADS=1 xargs -0 -n 2 -P "$JOBS" \
      avhubert-ext evaluate "${evaluation[@]}" --threads 1 --model > /dev/null
  avhubert-ext evaluate "${evaluation[@]}"
fi
