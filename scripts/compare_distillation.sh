#!/usr/bin/env bash
# Does distillation make a student better? Three models with each of three seeds, on the embedded
# corpus and with the same data, decoder and other settings:
#   distilled      distilled for 320 updates, then finetuned for 400
#   scratch        the same network, trained for 400 updates from random weights, without freezing
#   scratch-long   the same for 720 updates, which is what the distilled student had altogether
# All models are then decoded in quiet and in babble. Results: runs/compare/compare.{json,png}. Takes
# 1 h 45 min on two cores that also run other jobs.
#
# WORK=DIR sets another folder, SEEDS="1 2" other seeds. If it is interrupted, run it again.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

work=${WORK:-runs/compare}
read -ra seeds <<< "${SEEDS:-1 2 3}"
scripts/setup.sh

avhubert-ext data synth --out "$work/corpus" --speakers 40 --utterances 40 --seed 1
step prepare avhubert-ext data prepare --corpus "$work/corpus" --out "$work/data" \
  --reuse-subwords "$shipped"
step noise avhubert-ext data noise --musan "$work/corpus/musan" --out "$work/noise"

finetune=()
read_options finetune "$config/finetune.args"
from_scratch=(--encoder student-tiny-7 --freeze-encoder-updates 0)
longer=(--max-update 720 --total-num-update 720 --warmup-updates 216)
for seed in "${seeds[@]}"; do
  distill "distill-$seed" ",,config.pretrain_expert.datarc.seed=$seed" --seed "$seed"
  avhubert-ext model convert "$work/distill-$seed" "$work/encoder-$seed.safetensors"
  train "distilled-$seed" av_asr "${finetune[@]}" --seed "$seed" \
    --encoder-checkpoint "$work/encoder-$seed.safetensors"
  train "scratch-$seed" av_asr "${finetune[@]}" --seed "$seed" "${from_scratch[@]}"
done
for seed in "${seeds[@]}"; do
  train "scratch-long-$seed" av_asr "${finetune[@]}" --seed "$seed" "${from_scratch[@]}" \
    "${longer[@]}"
done

models=() reported=() curves=()
for name in distilled scratch scratch-long; do
  for seed in "${seeds[@]}"; do
    models+=("$name-$seed")
    reported+=(--model "$name" "$work/decoded/$name-$seed")
  done
done
for seed in "${seeds[@]}"; do curves+=("$work/distill-$seed"); done
decode_all "${models[@]}"

avhubert-ext report seeds --out "$work" "${reported[@]}" --distillation "${curves[@]}"
