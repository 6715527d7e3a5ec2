"""Show and compare one or several runs, as pictures and as one page of HTML.

    python plot.py model_output
    python plot.py model_a model_b --test_dir test_data --out_dir plots

Reads config.json and metrics.jsonl of model directories, and writes

    curves.png      loss by epoch and by seconds of training; also recall and MRR, if validation or infer.py found them
    report.html     the same curves, the last figures, and the settings that differ, in one file
    breakdown.png   with --test_dir: recall by position in the session, by session length and by popularity of the item
    projector/      with --projector_items: the items' vectors and ids, for `tensorboard --logdir`

Needs no Paddle.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import os
from pathlib import Path

# Before NumPy loads: on busy processors its threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from utils.data.session_files import refuse_conversion
from utils.files import InputError, require_place, write_atomically
from utils.options import COUNT, OUT_DIR, TEST_SESSIONS, Parser, number
from utils.plotting.breakdown import GROUPINGS, recall_by_group, run_ranks
from utils.plotting.runs import read_runs, setting_differences
from utils.process import run

REPORT = "report.html"


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("model_dirs", nargs="+", metavar="MODEL_DIR",
                        help="model directories, as a trainer writes them")
    data, evaluation = parser.group("input and output"), parser.group("evaluation")
    data.add_argument("--out_dir", default="plots", help=OUT_DIR)
    data.add_argument("--projector_items", type=number(int, 0, COUNT), default=0,
                      help="how many items' vectors to export for TensorBoard's projector, the most frequent first; "
                      "0: none")
    data.add_argument("--test_dir", default="",
                      help=f"{TEST_SESSIONS}, for the breakdown of the recall of each run's best or last epoch; empty: "
                      "none")
    evaluation.add_argument("--topk", type=number(int, 1, COUNT), default=20, help="cut-off k of recall@k and MRR@k")
    options = parser.parse_args()
    if len(set(map(os.path.realpath, options.model_dirs))) < len(options.model_dirs):
        raise InputError("MODEL_DIR: found the same directory twice, expected different ones")
    refuse_conversion(options.out_dir, "--out_dir")
    require_place(Path(options.out_dir, REPORT), "--out_dir")
    return options


def main():
    options = parse_arguments()
    runs = read_runs(options.model_dirs)
    for one in runs:
        print(f"read: {one.name} epochs:{len(one.epochs)} tests:{len(one.tests)}", flush=True)
    from utils.plotting import pictures  # slow to import, so only once the arguments are checked

    files, pages = {}, []  # all are made before the first is written: what is wrong with a run leaves no half report
    curves = lambda theme: pictures.curves(runs, options.topk, theme)
    files["curves.png"] = pictures.as_png(curves)
    pages.append(("Curves", curves))
    if options.test_dir:
        ranks = {run.name: run_ranks(run, options.test_dir) for run in runs}
        groups = {name: [recall_by_group(found, grouping, options.topk) for found in ranks.values()]
                  for name, grouping in GROUPINGS.items()}
        breakdown = lambda theme: pictures.breakdown(groups, list(ranks), options.topk, theme)
        files["breakdown.png"] = pictures.as_png(breakdown)
        pages.append((f"recall@{options.topk} in {options.test_dir}", breakdown))
    files[REPORT] = pictures.page(runs, setting_differences(runs), pages, options.topk).encode()
    vectors = {}
    if options.projector_items:
        from utils.plotting.projector import exported_items
        vectors = exported_items(runs, options.projector_items)
    for name, data in (files | vectors).items():
        with write_atomically(Path(options.out_dir, name), "wb") as file:
            file.write(data)
    for name in [*files, "projector"] if vectors else files:
        print(f"written: {Path(options.out_dir, name)}")


if __name__ == "__main__":
    run(main)
