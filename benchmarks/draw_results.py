"""Draw the pictures of README.md and docs/ from the runs that are recorded in benchmarks/recorded.

    python benchmarks/draw_results.py

Writes docs/pictures/NAME.svg for light pages and NAME_dark.svg for dark ones. record_recall.py, record_catalogue.py and
daily.py write the records; stated.json has what others measured. The same records give the same files, byte for byte.
"""

import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.files import InputError  # noqa: E402
from utils.model.checked_json import read_json  # noqa: E402
from utils.options import Parser  # noqa: E402
from utils.plotting import results  # noqa: E402
from utils.process import run  # noqa: E402

LOWEST = {  # where the axes begin in the pictures of recall_NAME.json
    "rsc15_64": {"recall@20": 0.6, "mrr@20": 0.25},
    "30music": {"recall@20": 0.3, "mrr@20": 0.1},
}
GROWTH = {  # the figures of a picture, and what is added to the names of their lines
    "training": {"predictions_per_second": ""},
    "answers": {"answers_per_second": ""},
    "latency": {"p50_ms": ", p50", "p99_ms": ", p99"},
}


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--recorded", default=str(ROOT / "benchmarks/recorded"), help="directory of the records")
    parser.add_argument("--out_dir", default=str(ROOT / "docs/pictures"), help="directory to write to")
    return parser.parse_args()


def pictures_of(directory):
    """The pictures of the records in a directory: a dict of names to functions of a Theme."""
    read = lambda name: read_json(directory / name, "--recorded", "recorded series")
    stated, catalogue, pictures = read("stated.json"), read("catalogue.json"), {}
    for path in sorted(directory.glob("recall_*.json")):
        data, record = path.stem.removeprefix("recall_"), read(path.name)
        record["series"] += stated.get(data, [])
        for figure, low in LOWEST[data].items():
            pictures[f"{figure.removesuffix('@20')}_{data}"] = partial(results.quality, record, figure, low)
    for path in sorted(directory.glob("daily_*.json")):
        pictures[path.stem] = partial(results.days, read(path.name))
    for name, figures in GROWTH.items():
        pictures[name] = partial(results.growth, catalogue, figures)
    return pictures


def main():
    options = parse_arguments()
    try:
        for name, draw in pictures_of(Path(options.recorded)).items():
            results.write_light_and_dark(draw, Path(options.out_dir, name))
            print(f"written: {Path(options.out_dir, name)}.svg, {name}_dark.svg")
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"--recorded: found a file of another form in {options.recorded}, expected those of "
                         "record_recall.py, record_catalogue.py and daily.py") from None


if __name__ == "__main__":
    run(main)
