"""Does the network for purchase intent find a rule that is known? Its AUC beside the best that there can be.

    python benchmarks/intent_rule.py --out_dir rule

make_sample.py --intent makes clicks and purchases, and says with which probability each session buys. A tenth of the
sessions is the test, another one the validation. Nobody can order the test sessions better than by these
probabilities, so their AUC is the best one to expect. It needs scikit-learn (requirements-intent.txt).
"""

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.files import InputError  # noqa: E402
from utils.intent.baselines import scikit_learn  # noqa: E402
from utils.options import COUNT, Parser, add_seed_flag, number  # noqa: E402
from utils.process import run  # noqa: E402

# The rule is one of whole sessions, without noise to hold back from: no loss at their beginnings, and no dropout.
FLAGS = ("--networks 1 --prefix_weight 0 --hid_dropout 0 --head_dropout 0 --head_size 64 --batch_size 256 "
         "--base_lr 0.006 --pass_num 6")


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--out_dir", required=True, help="directory to make, for all that is written")
    parser.add_argument("--session_count", type=number(int, 100, COUNT), default=240_000,
                        help="how many sessions to make")
    add_seed_flag(parser)
    parser.add_argument("--train_flags", type=shlex.split, default=FLAGS, help="flags of train_intent.py, in one text")
    parser.add_argument("--threads", type=number(int, 1, 1024), default=1, help="processor threads of the training")
    return parser.parse_args()


def main():
    options = parse_arguments()
    metrics = scikit_learn("metrics")
    work_dir = Path(options.out_dir)
    if work_dir.exists():
        raise InputError(f"--out_dir: found {work_dir}, expected a directory that isn't there yet")
    sample, data, model, scores = (work_dir / name for name in ("sample", "data", "model", "scores.tsv"))
    start("make_sample.py", "--intent", sample, "--session_count", options.session_count, "--seed", options.seed)
    start("preprocess.py", "--input", sample / "clicks.tsv", "--buys", sample / "buys.tsv", "--category_column",
          "Category", "--split_by", "hash", "--to_intent", data)
    start("train_intent.py", "--train_dir", data / "train", "--valid_dir", data / "valid", "--model_dir", model,
          "--seed", options.seed, "--threads", options.threads, *options.train_flags)
    start("infer_intent.py", "--test_dir", data / "test", "--model_dir", model, "--threads", options.threads,
          "--per_session", scores)
    best, found = column(sample / "probabilities.tsv"), column(scores)
    bought = column(sample / "buys.tsv")
    buys = [session in bought for session in found]
    aucs = [metrics.roc_auc_score(buys, [float(by[session]) for session in found]) for by in (best, found)]
    print(f"test sessions:{len(found)} buying:{sum(buys)} best_auc:{aucs[0]:.4f} auc:{aucs[1]:.4f} "
          f"less:{aucs[0] - aucs[1]:.4f}")


def start(script, *arguments):
    """Run a script of this repository; where it fails, it has said why."""
    process = subprocess.run([sys.executable, ROOT / script, *map(str, arguments)])
    if process.returncode:
        sys.exit(process.returncode)


def column(path):
    """The second column of a TSV file with a header, by the first one: a dict of str."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return dict(line.split("\t")[:2] for line in lines)


if __name__ == "__main__":
    run(main)
