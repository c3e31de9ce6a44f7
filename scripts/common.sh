# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # recipes use variables of this file, and this file theirs
# Sourced by the recipes: paths, functions, and the settings that all trainings share. Needs bash 4.4.

# Relative paths in environment variables start at the folder where the recipe was started. A recipe
# lists the names of these variables in `paths`, before it sources this file.
for name in "${paths[@]}"; do
  if [ -n "${!name:-}" ]; then export "$name=$(realpath -m "${!name}")"; fi
done
recipe=$(readlink -f "$0")
CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
export PATH="$PWD/.venv/bin:$PATH"

# Keep freed memory, instead of returning it to the system after every batch. The default of glibc
# makes the training of a small model on a CPU twice as slow.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296

# usage: print the comment at the top of the recipe, and exit. fail MESSAGE: print an error, and exit.
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$recipe" >&2; exit 2; }
fail() { echo "error: $*" >&2; exit 1; }

# read_options ARRAY FILE...: read .args files into an array. Each line has an option and its value.
read_options() {
  local -n options_read=$1
  local file option value
  options_read=()
  for file in "${@:2}"; do
    [ -r "$file" ] || fail "$file not found"
    while read -r option value || [ -n "$option" ]; do
      case $option in '' | '#'*) continue ;; esac
      options_read+=("$option")
      if [ -n "$value" ]; then options_read+=("$value"); fi
    done < "$file"
  done
}

# noise_folders DIR KIND...: the folders of these kinds of noise in DIR, separated by commas.
noise_folders() {
  local folders
  folders=$(printf ",$1/%s" "${@:2}")
  echo "${folders#,}"
}

# The flag that fairseq needs on a machine without a GPU.
on_cpu=()
if ! nvidia-smi -L > /dev/null 2>&1; then on_cpu=(--cpu); fi

# step NAME COMMAND...: run one step of the recipe that works in $work, unless it is finished.
step() { python scripts/step.py "$work" "$@"; }

# distill NAME OVERRIDES OPTION...: distill a student of $teacher with s3prl. OVERRIDES are settings
# of the run in the format of s3prl's option -o, each with ",," before it.
distill() {
  local folders="config.pretrain_expert.datarc.data=$work/data"
  folders+=",,config.pretrain_expert.datarc.cache_dir=$work/cache"
  INPUTS=$teacher step "$1" \
    python s3prl_upstream/run_pretrain.py -u distiller_av -p "$work/$1" -a \
    -g "$distill_model" -c "$distill_run" -o "$folders$2" "${@:3}"
}

# train NAME TASK OPTION...: train a recognizer with fairseq, on the manifests in $data, or else in
# $work/data, with noise of the kinds in $noise_kinds.
train() {
  step "$1" fairseq-train "${data:-$work/data}" --user-dir fairseq_user_dir --task "$2" \
    --arch av_asr_seq2seq --save-dir "$work/$1" --cache-dir "$work/cache" "${on_cpu[@]}" \
    --noise-manifests "$(noise_folders "$work/noise" "${noise_kinds[@]}")" "${common[@]}" "${@:3}"
}

# decode_all MODEL...: decode the test set with models of $work in three conditions, two at a time.
decode_all() {
  local model condition
  for model in "$@"; do
    for condition in clean babble_0db babble_0db_no_video; do
      printf '%s\0%s\0' "$model" "$condition"
    done
  done | OMP_NUM_THREADS=1 xargs -0 -n 2 -P 2 scripts/decode.sh "$work"
}

# evaluate_all FOLDER OPTION...: evaluate every FOLDER/NAME.safetensors, $JOBS at a time; then write
# the page with all of them. OPTIONs are those of `avhubert-ext evaluate`.
evaluate_all() {
  local file
  for file in "$1"/*.safetensors; do
    printf '%s\0' --model "$(basename "$file" .safetensors)" "$file"
  done | xargs -0 -n 36 -P "${JOBS:-1}" avhubert-ext evaluate "${@:2}" > /dev/null  # 12 models each
  avhubert-ext evaluate "${@:2}"
}

# A few updates, to see that everything runs: OVERRIDES of distill, OPTIONs of train.
quick_distillation=",,config.pretrain_expert.datarc.train_batch_size=4"
quick_distillation+=",,config.runner.total_steps=4,,config.runner.log_step=2"
quick_distillation+=",,config.runner.save_step=2"
quick_training=(--max-update 4 --total-num-update 4 --warmup-updates 1 --save-interval-updates 2)

# The settings for the embedded corpus, and the teacher that ships with the repository.
config=scripts/config/tiny
common=()
read_options common "$config/common.args"
noise_kinds=(babble music noise)
distill_model=$config/distill_model.yaml
distill_run=$config/distill_run.yaml
shipped=scripts/models/tiny-teacher
teacher=$shipped/model.safetensors
