"""Recall, MRR and other metrics of the next clicks, for each epoch of a model directory.

    python infer.py --test_dir test_data/ --model_dir model_output/ --start_index 1 --last_index 10 --use_cuda 0

Every click after the first of every test session is predicted from those before it and ranked among all items of the
training sessions; items already seen in the session are not removed. The figures are means over these predictions, by
default recall and MRR (docs/runs.md explains all metrics); they are printed, and appended to metrics.jsonl in the model
directory. On request, --sampled ranks each target among a few random items only, as some papers do; such figures
mislead, and a warning says so.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

from utils import device
from utils.evaluation.flags import add_inference_flags, check_inference_flags, evaluation
from utils.options import Parser
from utils.process import run


def main():
    parser = Parser(__doc__)
    add_inference_flags(parser)
    options = parser.parse_args()
    check_inference_flags(options)
    prepared = device.start(options)
    from utils.evaluation.inference import run_inference  # it loads Paddle, which device.start must come before

    run_inference(evaluation(options), prepared.kernels, prepared.processes)


if __name__ == "__main__":
    run(main)
