"""Recall, MRR and other metrics, for each epoch of a model directory that train_sample_neg.py wrote.

    python infer_sample_neg.py --test_dir test_data/ --model_dir model_neg_recall20 --start_index 1 --last_index 10

The same evaluation as infer.py's, whose flags it has too: all items are ranked, whatever the training sampled.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

from utils import device
from utils.evaluation.flags import add_inference_flags, check_inference_flags, evaluation
from utils.files import InputError
from utils.options import COUNT, Parser, number, sizes
from utils.launch import processes_to_start, watch
from utils.process import run


def main():
    parser = Parser(__doc__)
    add_inference_flags(parser)
    parser.set_defaults(model_dir="model_neg_recall20")
    parser.group("flags of Paddle's old example").add_argument(
        "--hid_size", type=sizes, help="for old command lines, without effect: the model directory knows it")
    options = parser.parse_args()
from utils.options import Parser, sizes


if __name__ == "__main__":
    run(main)
