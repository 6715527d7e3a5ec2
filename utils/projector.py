"""Items' vectors in the files that TensorBoard's embedding projector reads."""

import io
import json

import numpy as np

from utils.files import write_atomically
from utils.scorer import load_scorer

VECTORS, METADATA, CONFIG = "tensors.tsv", "metadata.tsv", "projector_config.pbtxt"


def export_items(runs, directory, count):
    """Write the output vectors of each runs.Run's `count` most frequent items and their ids, for `tensorboard --logdir directory`.

    An item's vector is its row of the output matrix without the bias: items with near vectors follow the same clicks.
    """
    blocks = []
    for run in runs:
        scorer, item_ids = load_scorer(run.model_dir)
        vectors = scorer.item_vectors[:count]
        names = [str(number) for number in range(len(vectors))] if item_ids is None else item_ids[:count]
        text = io.StringIO()
        np.savetxt(text, vectors, fmt="%.6g", delimiter="\t")
        _write(directory / run.name / VECTORS, text.getvalue())
        _write(directory / run.name / METADATA, "".join(f"{name}\n" for name in names))
        blocks.append("embeddings {" + "".join(f"\n  {key}: {json.dumps(value)}" for key, value in (
            ("tensor_name", run.name), ("tensor_path", f"{run.name}/{VECTORS}"), ("metadata_path", f"{run.name}/{METADATA}"))) + "\n}\n")
    _write(directory / CONFIG, "".join(blocks))


def _write(path, text):
    with write_atomically(path) as file:
        file.write(text)
