#!/usr/bin/env bash
# From clicks to recall@20 on the bundled sample. Sets up .venv (takes minutes, once), then makes, splits and converts
# the clicks, trains and evaluates (under a minute). All files go to demo_output/.
set -euo pipefail
if [ $# -gt 0 ]; then echo "demo.sh: found the argument $1, expected none" >&2; exit 2; fi
cd "$(dirname "$0")"
bash setup.sh .venv requirements.txt
python=$PWD/.venv/bin/python
rm -rf demo_output
mkdir -p demo_output/raw_train_data demo_output/raw_test_data

set -x
"$python" make_sample.py --output demo_output/sample_clicks.tsv
"$python" preprocess.py --input demo_output/sample_clicks.tsv --out_dir demo_output --prefix sample_
"$python" convert_format.py \
  --train_input demo_output/sample_train_full.txt --train_output demo_output/raw_train_data/sample_train.txt \
  --test_input demo_output/sample_test.txt --test_output demo_output/raw_test_data/sample_test.txt
"$python" text2paddle.py demo_output/raw_train_data demo_output/raw_test_data \
  demo_output/train_data demo_output/test_data demo_output/vocab.txt
"$python" train.py --train_dir demo_output/train_data --vocab_path demo_output/vocab.txt --model_dir demo_output/model
"$python" infer.py --test_dir demo_output/test_data --model_dir demo_output/model --train_dir demo_output/train_data
"$python" recommend.py --model_dir demo_output/model --topk 5 p0000 p0003
{ set +x; } 2> /dev/null
echo "next: docs/your-data.md has the same steps for your own clicks; README.md, \"Five minutes of use\", has a server"
