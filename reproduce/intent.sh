#!/usr/bin/env bash
# Purchase intent on the full RSC15 data: which sessions buy, and which items.
#
#   bash reproduce/intent.sh [DATA] [OUTPUT_DIR]
#
# DATA is yoochoose-data.7z (default; get it with `python preprocess.py --fetch 1`), or a folder with the unpacked
# yoochoose-clicks.dat and yoochoose-buys.dat. A tenth of the sessions, by a hash of their ids, is the test, another
# tenth the validation. BASELINES=1 adds logistic regression and gradient boosting (requirements-intent.txt).
#
# The winners of the RecSys Challenge 2015 had an AUC of .851 on such a holdout, of the items of buying sessions an AUC
# of .898 and a mean Jaccard of .765; their score on the challenge's own test was 63,102 of at most about 134,445, which
# is .469 of the maximum. We did not have the full data.
set -euo pipefail
source "$(dirname "$0")/common.sh"
data=$(absolute "${1:-yoochoose-data.7z}") out=$(absolute "${2:-reproduce_output/intent}")
prepare

tables=(--input "$data")
if [ -d "$data" ]; then tables=(--input "$data/yoochoose-clicks.dat" --buys "$data/yoochoose-buys.dat"); fi
python preprocess.py "${tables[@]}" --to_intent "$out/data" --split_by hash
python train_intent.py --train_dir "$out/data/train" --valid_dir "$out/data/valid" --model_dir "$out/model" \
  --overwrite 1 --pass_num "${EPOCHS:-4}" --batch_size 1024 --group_batches 32 --networks 1 --hid_size 64 --emb_size 32
set --
if [ "${BASELINES:-0}" = 1 ]; then set -- --train_dir "$out/data/train" --valid_dir "$out/data/valid"; fi
python infer_intent.py --test_dir "$out/data/test" --model_dir "$out/model" --submission "$out/solution.dat" "$@"
