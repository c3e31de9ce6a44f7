#!/usr/bin/env bash
# Paper A's Table 1 and Figures 3 and 4, from a raw corpus to the page: manifests and noise, teachers,
# distillation in s3prl, finetuning in fairseq, WER clean, in babble and against a second talker.
#
#   LRS3=DIR MUSAN=DIR GENERIC=base_vox_iter5.pt TEACHER=base_noise_pt_noise_ft_433h.pt \
#     scripts/table_1.sh --preset lrs3 [MODEL...]    the paper's values; a GPU's work of weeks
#   scripts/table_1.sh --preset tiny [MODEL...]      embedded corpus, tiny networks of the same ladder
#   scripts/table_1.sh --preset quick [MODEL...]     the same with a few updates: numbers mean nothing
#
# MODEL: teacher, 1 ... 7; without any, all. LRS3 is a folder with trainval/ and test/, 96x96 mouth
# regions. WORK=DIR takes another folder, SEED=2 another seed (and folder). Killed? Run it again: it
# goes on. Once the teacher is there, other models can be made side by side by starting it once for
# each.
set -euo pipefail
given="LRS3 MUSAN GENERIC TEACHER WORK"
source "$(dirname "$(readlink -f "$0")")/common.sh"

[ "${1:-}" = --preset ] || usage
kinds="babble music noise talker"   # the paper's four

distill_quickly="" train_quickly=() passes=10 valid= seed_suffix=${SEED:+_$SEED}
case "${2:-}" in
  tiny)
    work=${WORK:-runs/table_1$seed_suffix} speakers=40 utterances=40 curve_passes=3 ;;
  quick)
    work=${WORK:-runs/table_1_quick$seed_suffix} speakers=10 utterances=2 passes=2 curve_passes=1
    valid="--valid-fraction 0.25" distill_quickly=$quick_distillation
    train_quickly=("${quick_training[@]}" --freeze-encoder-updates 2) ;;
  lrs3)
    work=${WORK:-runs/table_1_lrs3$seed_suffix} curve_passes=10
    corpus=${LRS3:?name the folder of LRS3} musan=${MUSAN:?name the folder of MUSAN}
    # The teacher's decoder knows its own subwords only.
    avhubert-ext subwords "${TEACHER:?name the finetuned AV-HuBERT base}" "$work/subwords"
    subwords=(--reuse-subwords "$work/subwords") config=scripts/config/lrs3 common=
    distill_model=s3prl_upstream/pretrain/distiller_av/config_model.yaml
    distill_run=s3prl_upstream/pretrain/distiller_av/config_runner.yaml ;;
  *) usage ;;
esac
prefix=
if [ "$2" != lrs3 ]; then
  scripts/setup.sh
  prefix=tiny- corpus=$work/corpus musan=$work/corpus/musan subwords=(--reuse-subwords $shipped)
  avhubert-ext synth --out "$corpus" --speakers $speakers --utterances $utterances --seed 1
  export BEAM=5 JOBS=2
fi
shift 2
models=("$@")
if [ $# = 0 ]; then models=(teacher 1 2 3 4 5 6 7); fi

step prepare avhubert-ext prepare --corpus "$corpus" --out "$work/data" "${subwords[@]}" $valid
step noise avhubert-ext noise --musan "$musan" --manifests "$work/data" --out "$work/noise"

# make_generic, make_teacher: the model files $generic and $teacher.
if [ $prefix ]; then
  generic=$work/generic/checkpoint_last.pt teacher=$work/teacher/checkpoint_last.pt
  make_generic() {
    local open=$work/open
    avhubert-ext synth --out "$open/corpus" --speakers $speakers --utterances $utterances --seed 2 \
      --domain open
    step prepare-open avhubert-ext prepare --corpus "$open/corpus" --out "$open/data" \
      --subwords bpe --vocabulary 128
    data=$open/data train generic av_asr $(options $config/table_1_generic.args) \
      ${train_quickly[@]+"${train_quickly[@]}"}
  }
  make_teacher() {
    avhubert-ext convert $shipped/model.safetensors "$work/shipped.pt"
    train teacher av_asr $(options $config/table_1_teacher.args) \
      --finetune-from-model "$work/shipped.pt" ${train_quickly[@]+"${train_quickly[@]}"}
  }
else
  generic=${GENERIC:-} teacher=${TEACHER:-}
  make_generic() { : "${GENERIC:?name the pretrained AV-HuBERT base}"; }
  make_teacher() { :; }
fi

# student N: distill and finetune it.
student() {
  local its_teacher=$teacher
  if [ "$1" = 1 ]; then make_generic; its_teacher=$generic; else make_teacher; fi
  sed -e "s|^student: [^ ]*|student: $prefix$1|" -e "s|^teacher: [^ ]*|teacher: $its_teacher|" \
    $distill_model > "$work/model-$1.yaml"
  distill_model=$work/model-$1.yaml teacher=$its_teacher distill "distill-$1" \
    "$distill_quickly${SEED:+,,config.pretrain_expert.datarc.seed=$SEED}" ${SEED:+--seed "$SEED"}
  avhubert-ext convert "$work/distill-$1" "$work/student-$1.safetensors"
  train "finetuned-$1" av_asr $(options $config/finetune.args) \
    --encoder-checkpoint "$work/student-$1.safetensors" ${SEED:+--seed "$SEED"} \
    ${train_quickly[@]+"${train_quickly[@]}"}
}

evaluated=()
for model in "${models[@]}"; do
  case $model in
    teacher) make_teacher; evaluated+=("teacher=$teacher") ;;
    [1-7]) student "$model"; evaluated+=("$model=$work/finetuned-$model/checkpoint_last.pt") ;;
    *) echo "table_1.sh: model '$model' is none of teacher, 1 ... 7" >&2; exit 2 ;;
  esac
done

# Table 1 at 0 dB, then the rest of the curves.
SNR=0 PASSES=$passes scripts/evaluate_noise.sh "$work" "${evaluated[@]}" > /dev/null
SNR="-10 -5 5 10" PASSES=$curve_passes scripts/evaluate_noise.sh "$work" "${evaluated[@]}"
