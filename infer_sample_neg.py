"""Recall, MRR and other metrics, for each epoch of a model directory that train_sample_neg.py wrote.

    python infer_sample_neg.py --test_dir test_data/ --model_dir model_neg_recall20 --start_index 1 --last_index 10

The same evaluation as infer.py's, whose flags it has too: all items are ranked, whatever the training sampled.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

from utils import device
from utils.evaluation.flags import add_inference_flags, check_inference_flags, evaluation
from utils.options import Parser, sizes
from utils.process import run


def main():
    parser = Parser(__doc__)
    add_inference_flags(parser)
    parser.set_defaults(model_dir="model_neg_recall20")
    parser.group("flags of Paddle's old example").add_argument(
        "--hid_size", type=sizes, help="for old command lines, without effect: the model directory knows it")
    options = parser.parse_args()
    check_inference_flags(options)
    prepared = device.start(options)
    from utils.evaluation.inference import run_inference  # it loads Paddle, which device.start must come before

    run_inference(evaluation(options), prepared.kernels, prepared.processes)


if __name__ == "__main__":
    run(main)
