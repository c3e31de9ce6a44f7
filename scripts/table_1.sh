#!/usr/bin/env bash
# Paper A's Table 1 and Figures 3 and 4, from a raw corpus to the page: manifests and noise, teachers,
# distillation in s3prl, finetuning in fairseq, WER in quiet, in babble and with a second talker.
#
#   LRS3=DIR MUSAN=DIR GENERIC=base_vox_iter5.pt TEACHER=base_noise_pt_noise_ft_433h.pt \
#     scripts/table_1.sh --preset lrs3 [MODEL...]    the paper's values; takes a GPU for weeks
#   scripts/table_1.sh --preset tiny [MODEL...]      the embedded corpus, a tiny network for each model
#   scripts/table_1.sh --preset quick [MODEL...]     the same with a few updates; the numbers mean
#                                                    nothing
#
# MODEL is teacher or the number of a student, 1 ... 7; the default is all of them. LRS3 is a folder
# with trainval/ and test/ that has mouth regions of 96x96 pixels. WORK=DIR sets another folder, SEED=2
# another seed (and folder). If it is interrupted, run it again: it continues. Once there is a
# teacher, several models can be trained at the same time, each with a call of this script.
set -euo pipefail
paths=(LRS3 MUSAN GENERIC TEACHER WORK)
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

[ "${1:-}" = --preset ] || usage
noise_kinds=(babble music noise talker)   # the paper's four

seed_suffix=${SEED:+_$SEED} seed=() distillation_seed=""
if [ -n "${SEED:-}" ]; then
  seed=(--seed "$SEED") distillation_seed=",,config.pretrain_expert.datarc.seed=$SEED"
fi
passes=10 valid=() few_steps="" few_updates=()
generic_settings=() teacher_settings=() finetune=()
case "${2:-}" in
  tiny)
    work=${WORK:-runs/table_1$seed_suffix} speakers=40 utterances=40 curve_passes=3 ;;
  quick)
    work=${WORK:-runs/table_1_quick$seed_suffix} speakers=10 utterances=2 passes=2 curve_passes=1
    valid=(--valid-fraction 0.25) few_steps=$quick_distillation
    few_updates=("${quick_training[@]}" --freeze-encoder-updates 2) ;;
  lrs3)
    work=${WORK:-runs/table_1_lrs3$seed_suffix} curve_passes=10
    corpus=${LRS3:?name the folder of LRS3} musan=${MUSAN:?name the folder of MUSAN}
    # The decoder of the teacher has outputs for its own subwords only.
    avhubert-ext data subwords "${TEACHER:?name the finetuned AV-HuBERT base}" "$work/subwords"
    subwords=$work/subwords config=scripts/config/lrs3 common=() family=""
    distill_model=s3prl_upstream/pretrain/distiller_av/config_model.yaml
    distill_run=s3prl_upstream/pretrain/distiller_av/config_runner.yaml ;;
  *) usage ;;
esac
if [ "$2" != lrs3 ]; then
  scripts/setup.sh
  family=tiny- corpus=$work/corpus musan=$work/corpus/musan subwords=$shipped
  avhubert-ext data synth --out "$corpus" --speakers "$speakers" --utterances "$utterances" --seed 1
  export BEAM=5 JOBS=2
fi
shift 2
models=("$@")
if [ $# = 0 ]; then models=(teacher 1 2 3 4 5 6 7); fi

step prepare avhubert-ext data prepare --corpus "$corpus" --out "$work/data" \
  --reuse-subwords "$subwords" "${valid[@]}"
step noise avhubert-ext data noise --musan "$musan" --manifests "$work/data" --out "$work/noise"

# make_generic, make_teacher: the model files $generic and $teacher. On the embedded corpus both are
# trained here; a generic one has seen other speakers and sentences from an open list of words.
if [ -n "$family" ]; then
  generic=$work/generic/checkpoint_last.pt teacher=$work/teacher/checkpoint_last.pt
  read_options generic_settings "$config/table_1_generic.args"
  read_options teacher_settings "$config/table_1_teacher.args"
  make_generic() {
    local open=$work/open
    avhubert-ext data synth --out "$open/corpus" --seed 2 --domain open \
      --speakers "$speakers" --utterances "$utterances"
    step prepare-open avhubert-ext data prepare --corpus "$open/corpus" --out "$open/data" \
      --subwords bpe --vocabulary 128
    data=$open/data train generic av_asr "${generic_settings[@]}" "${few_updates[@]}"
  }
  make_teacher() {
    avhubert-ext model convert "$shipped/model.safetensors" "$work/shipped.pt"
    train teacher av_asr "${teacher_settings[@]}" --finetune-from-model "$work/shipped.pt" \
      "${few_updates[@]}"
  }
else
  generic=${GENERIC:-} teacher=${TEACHER:-}
  make_generic() { : "${GENERIC:?name the pretrained AV-HuBERT base}"; }
  make_teacher() { :; }
fi

# make_student N: distill and finetune student N. The first learns from the generic teacher.
read_options finetune "$config/finetune.args"
make_student() {
  local teacher=$teacher model=$work/model-$1.yaml
  if [ "$1" = 1 ]; then make_generic; teacher=$generic; else make_teacher; fi
  python scripts/model_config.py "$distill_model" "student=$family$1" "teacher=$teacher" > "$model"
  distill_model=$model distill "distill-$1" "$few_steps$distillation_seed" "${seed[@]}"
  avhubert-ext model convert "$work/distill-$1" "$work/student-$1.safetensors"
  train "finetuned-$1" av_asr "${finetune[@]}" \
    --encoder-checkpoint "$work/student-$1.safetensors" "${seed[@]}" "${few_updates[@]}"
}

evaluated=()
for model in "${models[@]}"; do
  case $model in
    teacher) make_teacher; evaluated+=("teacher=$teacher") ;;
    [1-7]) make_student "$model"; evaluated+=("$model=$work/finetuned-$model/checkpoint_last.pt") ;;
    *) echo "table_1.sh: model '$model': expected teacher or 1 ... 7" >&2; exit 2 ;;
  esac
done

# Table 1 at 0 dB, then the rest of the curves.
SNR=0 PASSES=$passes scripts/evaluate_noise.sh "$work" "${evaluated[@]}" > /dev/null
SNR="-10 -5 5 10" PASSES=$curve_passes scripts/evaluate_noise.sh "$work" "${evaluated[@]}"
