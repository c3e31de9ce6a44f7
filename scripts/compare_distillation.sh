#!/usr/bin/env bash
# Is a student better for having been distilled? On the embedded corpus, three seeds of
#   distilled      320 updates of distillation, then finetuned for 400
#   scratch        the same network, finetuned for 400 updates, all of it from the first on
#   scratch-long   the same for 720 updates, as many as the distilled student had in all
# with the same data, decoder and settings otherwise. Decodes all of them clean and in babble.
# Results: runs/compare/compare.{json,png}; 1 h 45 min on two cores, with other jobs beside it.
#
# WORK=DIR takes another folder, SEEDS="1 2" other seeds. Killed? Run it again: it goes on.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/common.sh"

work=${WORK:-runs/compare} seeds=${SEEDS:-1 2 3}
scripts/setup.sh

avhubert-ext synth --out "$work/corpus" --speakers 40 --utterances 40 --seed 1
step prepare avhubert-ext prepare --corpus "$work/corpus" --out "$work/data" \
  --reuse-subwords $shipped
step noise avhubert-ext noise --musan "$work/corpus/musan" --out "$work/noise"

from_scratch=(--encoder student-tiny-7 --freeze-encoder-updates 0)
models=() reported=() curves=()
for seed in $seeds; do
  distill "distill-$seed" ",,config.pretrain_expert.datarc.seed=$seed" --seed "$seed"
  avhubert-ext convert "$work/distill-$seed" "$work/encoder-$seed.safetensors"
  train "distilled-$seed" av_asr $(options $config/finetune.args) --seed "$seed" \
    --encoder-checkpoint "$work/encoder-$seed.safetensors"
  train "scratch-$seed" av_asr $(options $config/finetune.args) --seed "$seed" "${from_scratch[@]}"
  curves+=("$work/distill-$seed")
done
for seed in $seeds; do
  train "scratch-long-$seed" av_asr $(options $config/finetune.args) --seed "$seed" \
    "${from_scratch[@]}" --max-update 720 --total-num-update 720 --warmup-updates 216
done
for name in distilled scratch scratch-long; do
  for seed in $seeds; do
    models+=("$name-$seed")
    reported+=(--model "$name" "$work/decoded/$name-$seed")
  done
done

for model in "${models[@]}"; do
  for condition in clean babble_0db babble_0db_no_video; do
    echo "$model $condition"
  done
done | OMP_NUM_THREADS=1 xargs -P 2 -L 1 scripts/decode.sh "$work"

avhubert-ext compare --out "$work" "${reported[@]}" --distillation "${curves[@]}"
