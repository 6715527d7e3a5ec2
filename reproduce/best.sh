#!/usr/bin/env bash
# The best model that this project knows: four with train_sample_neg.py's own settings and different seeds, merged.
#
#   bash reproduce/best.sh TRAIN TEST [OUTPUT_DIR] [SEED]
#
# TRAIN and TEST are split files of full RSC15 (rsc15_train_full.txt and rsc15_test.txt, which
# `python preprocess.py --fetch 1` makes) or of its newest 1/64 (the same with --newest_fraction 0.015625).
# SEED 1 uses the seeds 1 to 4, SEED 2 the next four, and so on.
# Time on 1/64: about 6 minutes on one core. Expect: see README.md, results; we did not have full RSC15.
set -euo pipefail
if [ $# -lt 2 ]; then echo "usage: bash reproduce/best.sh TRAIN TEST [OUTPUT_DIR] [SEED]" >&2; exit 2; fi
source "$(dirname "$0")/common.sh"
train=$(absolute "$1") test=$(absolute "$2") out=$(absolute "${3:-reproduce_output/best}") seed=${4:-1}
prepare

convert_splits "$train" "$test" "$out"
models=()
for number in 1 2 3 4; do
  models+=("$out/model_$number")
  python train_sample_neg.py --train_dir "$out/train_data" --vocab_path "$out/vocab.txt" \
    --model_dir "$out/model_$number" --overwrite 1 --seed $((4 * (seed - 1) + number)) --threads 1 \
    ${EPOCHS:+--pass_num "$EPOCHS"}
done
python merge_models.py "${models[@]}" --model_dir "$out/model" --overwrite 1
python infer_sample_neg.py --test_dir "$out/test_data" --model_dir "$out/model" --last_index 1 --threads 1
