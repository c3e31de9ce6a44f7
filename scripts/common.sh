# Sourced by the recipes: where things are, and the settings that every training here wants.

CDPATH= cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"

# Keep freed memory instead of handing it back to the system after every batch: glibc's default
# costs a small model on the CPU half its speed.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296

# options FILE: the options in a .args file, one a line, comments removed.
options() { grep -v '^#' "$1"; }

# noise_kinds DIR: the noise folders that `avhubert-ext noise` wrote, as fairseq wants them.
noise_kinds() { echo "$1/babble,$1/music,$1/noise"; }

# on_cpu: the flag fairseq needs where there is no GPU.
on_cpu() { nvidia-smi -L > /dev/null 2>&1 || echo --cpu; }
