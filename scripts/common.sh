# Sourced by the recipes: where things are, and the settings that every training here wants.

# Files and folders that the environment names in the variables of $given: as seen from where the
# recipe was started.
for name in ${given:-}; do
  if [ -n "${!name:-}" ]; then export $name="$(realpath -m "${!name}")"; fi
done
recipe=$(readlink -f "$0")
CDPATH= cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"

# Keep freed memory instead of handing it back to the system after every batch: glibc's default
# costs a small model on the CPU half its speed.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296

# options FILE: the options in a .args file, one a line, comments removed.
options() { grep -v '^#' "$1"; }

# noise_kinds DIR: the folders of $kinds that `avhubert-ext noise` wrote, as fairseq wants them.
kinds="babble music noise"
noise_kinds() { printf "$1/%s\n" $kinds | paste -sd,; }

# on_cpu: the flag fairseq needs where there is no GPU.
on_cpu() { nvidia-smi -L > /dev/null 2>&1 || echo --cpu; }

# usage: what the recipe says of itself at its top; fail MESSAGE: an error.
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$recipe" >&2; exit 2; }
fail() { echo "error: $*" >&2; exit 1; }

# step NAME COMMAND...: run one resumable step of the recipe that works in $work.
step() { python scripts/step.py "$work" "$@"; }

# distill NAME OVERRIDES OPTIONS...: s3prl, teacher -> student; OVERRIDES as for its option -o.
distill() {
  local name=$1 overrides=$2
  local folders="config.pretrain_expert.datarc.data=$work/data"
  folders+=",,config.pretrain_expert.datarc.cache_dir=$work/cache"
  INPUTS=$teacher step "$name" \
    python s3prl_upstream/run_pretrain.py -u distiller_av -p "$work/$name" -a \
    -g $distill_model -c $distill_run -o "$folders$overrides" "${@:3}"
}

# train NAME TASK OPTIONS...: fairseq-train on the corpus in $work, or on that in $data.
train() {
  step "$1" fairseq-train "${data:-$work/data}" --user-dir fairseq_user_dir --task "$2" \
    --arch av_asr_seq2seq --save-dir "$work/$1" --cache-dir "$work/cache" $(on_cpu) \
    --noise-manifests "$(noise_kinds "$work/noise")" $common "${@:3}"
}

# evaluate_all OUT FOLDER OPTION...: decode the models in a folder with the recipe's function
# `evaluate`, $JOBS at a time; a last call, without a model, writes the page.
evaluate_all() {
  export -f evaluate
  printf '%s\0' "$2"/*.safetensors | xargs -0 -P ${JOBS:-1} -n 12 bash -c \
    'out=$1 options=$2
     for file in "${@:3}"; do models+=(--model "$(basename "$file" .safetensors)" "$file"); done
     evaluate --out "$out" "${models[@]}" $options > /dev/null' _ "$1" "${*:3}"
  evaluate --out "$1" "${@:3}"
}

# A few updates only, to see that everything runs: as OVERRIDES of distill and OPTIONS of train.
quick_distillation=",,config.pretrain_expert.datarc.train_batch_size=4"
quick_distillation+=",,config.runner.total_steps=4,,config.runner.log_step=2"
quick_distillation+=",,config.runner.save_step=2"
quick_training=(--max-update 4 --total-num-update 4 --warmup-updates 1 --save-interval-updates 2)

# The embedded corpus: settings, and the teacher that ships with the repository.
config=scripts/config/tiny
common=$(options $config/common.args)
distill_model=$config/distill_model.yaml distill_run=$config/distill_run.yaml
shipped=scripts/models/tiny-teacher teacher=scripts/models/tiny-teacher/model.safetensors
