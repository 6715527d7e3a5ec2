#!/usr/bin/env bash
# Full RSC15 with the settings of Paddle's old example, as its README states them: batches of 500 sessions, trained on
# train_tr, tested on the test day.
#
#   bash reproduce/rsc15.sh [CLICKS] [OUTPUT_DIR]
#
# CLICKS is yoochoose-data.7z (default; get it with `python preprocess.py --fetch 1`) or the unpacked
# yoochoose-clicks.dat.
# Expect .613 after epoch 1 and .681 after epoch 10 (the old example's figures; we did not have the full data).
set -euo pipefail
source "$(dirname "$0")/common.sh"
clicks=$(absolute "${1:-yoochoose-data.7z}") out=$(absolute "${2:-reproduce_output/rsc15}")
prepare

python preprocess.py --input "$clicks" --out_dir "$out"
convert_splits "$out/rsc15_train_tr.txt" "$out/rsc15_test.txt" "$out"
python train.py --train_dir "$out/train_data" --vocab_path "$out/vocab.txt" --model_dir "$out/model" --overwrite 1 \
  --embedding separate --reset_gate before --init_range 0.04 --emb_lr_x 10 --base_lr 0.01 --hid_dropout 0 \
  --label_smoothing 0 --lr_end 1 --group_batches 20 --batch_size 500 --pass_num "${EPOCHS:-10}"
python infer.py --test_dir "$out/test_data" --model_dir "$out/model" --train_dir "$out/train_data" \
  --last_index "${EPOCHS:-10}"
