#!/usr/bin/env bash
# RSC15 1/64 with the settings of Paddle's old example: full vocabulary, batches of 50 (its command line's default).
#
#   bash reproduce/rsc15_64_reference.sh TRAIN TEST [OUTPUT_DIR] [SEED]
#
# TRAIN and TEST are those of reproduce/rsc15_64.sh. Time: about 10 minutes on one core. Expect: see README.md, results.
set -euo pipefail
if [ $# -lt 2 ]; then echo "usage: bash reproduce/rsc15_64_reference.sh TRAIN TEST [OUTPUT_DIR] [SEED]" >&2; exit 2; fi
source "$(dirname "$0")/common.sh"
train=$(absolute "$1") test=$(absolute "$2")
out=$(absolute "${3:-reproduce_output/rsc15_64_reference}") seed=${4:-1}
prepare

convert_splits "$train" "$test" "$out"
python train.py --train_dir "$out/train_data" --vocab_path "$out/vocab.txt" --model_dir "$out/model" --overwrite 1 \
  --embedding separate --reset_gate before --init_range 0.04 --emb_lr_x 10 --base_lr 0.01 --hid_dropout 0 \
  --label_smoothing 0 --lr_end 1 --group_batches 20 --batch_size 50 --seed "$seed" --threads 1 \
  --pass_num "${EPOCHS:-10}"
python infer.py --test_dir "$out/test_data" --model_dir "$out/model" --train_dir "$out/train_data" --threads 1 \
  --last_index "${EPOCHS:-10}"
