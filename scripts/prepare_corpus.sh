#!/usr/bin/env bash
# From a raw corpus to manifests: the mouth region of every video, its transcript, subwords.
#
#   CORPUS=DIR scripts/prepare_corpus.sh LAYOUT [OPTION...]
#
# LAYOUT is the layout of CORPUS:
#   lrs3      {trainval,test,pretrain}/SPEAKER/CLIP.{mp4,txt}
#   lrs2      {main,pretrain}/ID/CLIP.{mp4,txt} with train.txt, val.txt (the validation set), test.txt
#   grid      CLIP.mpg and CLIP.align below s1 ... s34; s1, s2, s20 and s22 are for the test
#   folder    [SPEAKER/]CLIP.* with CLIP.txt, plain text; a tenth of the speakers is for the test
# Pretrain clips are cut into pieces of at most 24 s. OPTIONs are those of `avhubert-ext data video`,
# for example `--landmarks DIR`. Results: runs/LAYOUT/mouths, with sheets/ for a visual check, and
# runs/LAYOUT/data, for trainings. WORK=DIR sets another folder. SUBWORDS=DIR takes the subwords in
# DIR instead of 1000 new ones, VOCABULARY=N sets another number. SKIP_FAILED=1 continues without the
# videos that failed. If it is interrupted, run it again: it continues.
set -euo pipefail
paths=(CORPUS WORK SUBWORDS)
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

case "${1:-}" in lrs3 | lrs2 | grid | folder) layout=$1 ;; *) usage ;; esac
shift
work=${WORK:-runs/$layout}
subwords=(--vocabulary "${VOCABULARY:-1000}")
if [ -n "${SUBWORDS:-}" ]; then subwords=(--reuse-subwords "$SUBWORDS"); fi

# skipped CODE: whether exit code CODE means that files failed, and these are to be left out.
skipped() { [ "$1" = 1 ] && [ "${SKIP_FAILED:-}" = 1 ]; }

avhubert-ext data video "${CORPUS:?name the folder of the corpus}" "$work/mouths" \
  --layout "$layout" "$@" || skipped $? ||
  fail "see above; SKIP_FAILED=1 continues without the videos that failed"
if [ -n "${SKIP_FAILED:-}" ]; then subwords+=(--allow-unreadable); fi
started=$(mktemp "$work/started.XXXXXX")
trap 'rm -f "$started"' EXIT
avhubert-ext data prepare --corpus "$work/mouths" --out "$work/data" "${subwords[@]}" ||
  { skipped $? && [ "$work/data/dict.wrd.txt" -nt "$started" ]; } ||  # this file is written last
  fail "see above; SKIP_FAILED=1 continues without the clips that failed"
