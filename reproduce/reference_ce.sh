#!/usr/bin/env bash
# Paddle's old example with sampled cross-entropy: ten negatives per prediction, drawn from the targets of the batch.
#
#   bash reproduce/reference_ce.sh TRAIN TEST [OUTPUT_DIR] [SEED]
#
# TRAIN and TEST are split files of full RSC15 (rsc15_train_full.txt and rsc15_test.txt, which
# `python preprocess.py --fetch 1` makes) or of its newest 1/64 (the same with --newest_fraction 0.015625).
# Expect .605 on full RSC15 (its README); on 1/64 see README.md.
set -euo pipefail
if [ $# -lt 2 ]; then echo "usage: bash reproduce/reference_ce.sh TRAIN TEST [OUTPUT_DIR] [SEED]" >&2; exit 2; fi
source "$(dirname "$0")/common.sh"
train=$(absolute "$1") test=$(absolute "$2")
out=$(absolute "${3:-reproduce_output/reference_ce}") seed=${4:-1}
prepare

convert_splits "$train" "$test" "$out"
python train_sample_neg.py --config settings/reference_ce.json --train_dir "$out/train_data" \
  --vocab_path "$out/vocab.txt" --model_dir "$out/model" --overwrite 1 --seed "$seed" --threads 1 \
  ${EPOCHS:+--pass_num "$EPOCHS"}
python infer_sample_neg.py --test_dir "$out/test_data" --model_dir "$out/model" --last_index "${EPOCHS:-10}" --threads 1
