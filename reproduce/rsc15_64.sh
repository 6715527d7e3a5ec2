#!/usr/bin/env bash
# RSC15 1/64 with train.py's own settings: recall@20 and MRR@20 of each epoch, beside POP and item transitions.
#
#   bash reproduce/rsc15_64.sh TRAIN TEST [OUTPUT_DIR] [SEED]
#
# TRAIN and TEST are split files (SessionId, ItemId, Time; also .gz): the newest 1/64 of RSC15's training sessions, and
# its test day. This command makes them from the full data:
#   python preprocess.py --fetch 1 --newest_fraction 0.015625
# Time: about 5 minutes on one core. Expect: see README.md, results.
set -euo pipefail
if [ $# -lt 2 ]; then echo "usage: bash reproduce/rsc15_64.sh TRAIN TEST [OUTPUT_DIR] [SEED]" >&2; exit 2; fi
source "$(dirname "$0")/common.sh"
train=$(absolute "$1") test=$(absolute "$2")
out=$(absolute "${3:-reproduce_output/rsc15_64}") seed=${4:-1}
prepare

convert_splits "$train" "$test" "$out"
python train.py --train_dir "$out/train_data" --vocab_path "$out/vocab.txt" --model_dir "$out/model" --overwrite 1 \
  --seed "$seed" --threads 1 --pass_num "${EPOCHS:-10}"
python infer.py --test_dir "$out/test_data" --model_dir "$out/model" --train_dir "$out/train_data" --threads 1 \
  --last_index "${EPOCHS:-10}"
