"""Train a network that says whether a session buys something, and which of its items.

    python preprocess.py --input yoochoose-clicks.dat --buys yoochoose-buys.dat --to_intent intent_data
    python train_intent.py --train_dir intent_data/train --model_dir model_intent
    python infer_intent.py --test_dir intent_data/test --model_dir model_intent

A GRU reads a session's clicks; one head says whether the session buys, another one which of the clicked items it buys
if it does. Writes a model directory with one epoch_N a pass; its state.json has the thresholds with the highest score
of the RecSys Challenge 2015 on the validation sessions. serve.py --intent_model_dir answers with it. docs/intent.md
explains all of it.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

from utils import device
from utils.intent.flags import parse_arguments
from utils.process import run


def main():
    options = parse_arguments(description=__doc__)
    prepared = device.prepare(options.use_cuda, options.threads, options.tune_cpu)
    from utils.intent.training import run_intent_training  # it loads Paddle, which device.prepare must come before
    from utils.runlog import log

    log(prepared.line)
    run_intent_training(options)


if __name__ == "__main__":
    run(main)
