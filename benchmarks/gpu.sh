#!/usr/bin/env bash
# What training does on the GPU of this machine: its losses beside the processor's, its speed, killed and resumed, and
# on two GPUs where there are two. Writes docs/gpu.md. Meant to take less than ten minutes, the download left out.
#
#   bash benchmarks/gpu.sh
#
# Without ENVIRONMENT it sets up .venv-gpu with requirements-gpu.txt. With it, the virtual environment of that name is
# used as it is, such as one with Paddle 3 for GPUs. OUTPUT names another page, TRAIN_DIR, TEST_DIR and VOCAB_PATH other
# data than the bundled sample, SPEED further flags of speed.py. USE_CUDA=0 tries the script itself on a processor.
set -euo pipefail
if [ $# -gt 0 ]; then echo "gpu.sh: found the argument $1, expected none" >&2; exit 2; fi
cd "$(dirname "$0")/.."
use_cuda=${USE_CUDA:-1} output=${OUTPUT:-docs/gpu.md} train_dir=${TRAIN_DIR:-train_data} vocab_path=${VOCAB_PATH:-vocab.txt}
if [ "$use_cuda" = 0 ] && [ -z "${OUTPUT:-}" ]; then
  echo "gpu.sh: found USE_CUDA=0 without OUTPUT, expected another page than docs/gpu.md for what no GPU did" >&2; exit 2
fi
gpus=$(nvidia-smi -L 2>/dev/null || true)
if [ "$use_cuda" = 1 ] && [ -z "$gpus" ]; then
  echo "gpu.sh: found no GPU that nvidia-smi -L lists, expected one at least" >&2; exit 2
fi
if [ -z "${ENVIRONMENT:-}" ]; then
  ENVIRONMENT=.venv-gpu
  bash setup.sh "$ENVIRONMENT" requirements-gpu.txt
fi
python=$ENVIRONMENT/bin/python seed=1 work=$(mktemp -d) verdict=0
trap 'rm -rf "$work"' EXIT

start() {  # start SCRIPT MODEL FLAGS...: become a training, its log in MODEL.log
  local script=$1 model=$2
  shift 2
  exec "$python" "$script" --train_dir "$train_dir" --vocab_path "$vocab_path" --model_dir "$work/$model" --seed "$seed" \
    "$@" > "$work/$model.log"
}

train() { (start "$@"); }

losses() {  # losses LOG: the losses of its first 100 steps, one a line; a perplexity is the exponential of one
  sed -En 's/^step:[0-9]+ (ppl|ce):(.*)$/\1 \2/p' "$work/$1" | head -n 100 \
    | awk '{print $1 == "ppl" ? log($2) : $2}'
}

compare() {  # compare SCRIPT: 100 steps on the device and on the processor
  local flags=(--pass_num 2 --print_batch 1 --hid_dropout 0)
  train "$1" "device-$1" --use_cuda "$use_cuda" "${flags[@]}"
  train "$1" "processor-$1" --use_cuda 0 "${flags[@]}"
  paste <(losses "device-$1.log") <(losses "processor-$1.log") | awk -v script="$1" '
    { difference = $1 - $2; if (difference < 0) difference = -difference; if (difference > most) most = difference }
    END { agree = NR > 0 && most <= 1e-3
          printf "%s: the losses of %d steps differ by %.1e at most, expected 1e-3: %s\n", script, NR, most,
                 agree ? "agree" : "DIFFER"
          exit !agree }' || verdict=1
}

kill_and_resume() {  # kill a training once it has saved itself, resume it, compare its weights with a whole run's
  local flags=(--use_cuda "$use_cuda" --pass_num 2)
  train train_sample_neg.py whole "${flags[@]}"
  start train_sample_neg.py killed "${flags[@]}" --save_seconds 0.05 &
  local training=$!
  until [ -e "$work/killed/last/state.json" ] || ! kill -0 "$training" 2>/dev/null; do sleep 0.02; done
  kill -KILL "$training" 2>/dev/null || true
  if wait "$training" 2>/dev/null; then echo "the training ended before it could be killed"; fi
  train train_sample_neg.py killed "${flags[@]}" --resume 1
  sed -n 's/^resumed from .*, /killed and resumed, /p' "$work/killed.log"
  if cmp -s "$work/whole/epoch_2/model.safetensors" "$work/killed/epoch_2/model.safetensors"; then
    echo "the weights are those of a run that was never killed, bit by bit"
  else
    echo "the weights DIFFER from those of a run that was never killed"; verdict=1
  fi
}

epoch() {  # epoch SCRIPT NAME FLAGS...: the line of an epoch on the device
  local script=$1 name=$2
  shift 2
  train "$script" "$name" --use_cuda "$use_cuda" --pass_num 1 "$@"
  echo "$script${*:+ $*}: $(grep '^epoch:1 num_steps' "$work/$name.log")"
}

measure() {  # everything, as text
  echo "## Losses"; echo; echo '```text'
  compare train.py; compare train_sample_neg.py
  echo '```'; echo; echo "## Speed beside the device's own products"; echo
  echo "How a step's time is divided is the processor's, which doesn't wait for a GPU."; echo; echo '```text'
  "$python" benchmarks/speed.py --use_cuda "$use_cuda" --train_dir "$train_dir" --test_dir "${TEST_DIR:-test_data}" \
    --vocab_path "$vocab_path" --click_count 0 ${SPEED:---seconds 2 --item_counts 1000000 --hid_sizes 512}
  echo '```'; echo; echo "## Whole epochs"; echo; echo '```text'
  for script in train.py train_sample_neg.py; do
    epoch "$script" "epoch-$script"
    if [ "$use_cuda" = 1 ]; then epoch "$script" "bf16-$script" --amp bf16; fi
    if [ "$(wc -l <<< "$gpus")" -ge 2 ]; then
      CUDA_VISIBLE_DEVICES=0,1 epoch "$script" "two-$script" --parallel 1 --num_devices 2
    fi
  done
  echo '```'; echo; echo "## Killed and resumed"; echo; echo '```text'
  kill_and_resume
  echo '```'
}

measure > "$work/measured"
{
  echo "# GPU"; echo
  echo "Written by \`bash benchmarks/gpu.sh\` on $(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD || true), seed $seed."
  echo; echo '```text'
  if [ "$use_cuda" = 1 ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  else
    echo "no GPU: this was a try of the script on a processor"
  fi
  grep '^device:' "$work/device-train.py.log"; grep '^engine:' "$work/device-train.py.log"
  echo '```'; echo
  cat "$work/measured"
} > "$work/page"
cp "$work/page" "$output"
echo "wrote $output"
exit "$verdict"
